"""Count the distinct pre-tokens of a text."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from tokenizer.blocks import BLOCK, cut_blocks, token_edges
from tokenizer.piece_index import PieceIndex
from tokenizer.pretokenize import Pretokenizer


@dataclass(frozen=True)
class PieceCounts:
    """Distinct pieces, one behind the other in `data`, and how often each occurs; special tokens come first."""

    data: np.ndarray  # uint8
    lengths: np.ndarray  # int64, of each piece in bytes
    counts: np.ndarray  # int64, of each piece


class _Counter:
    """Adds up how often pieces occur, and keeps the bytes of each."""

    def __init__(self, pretokenizer: Pretokenizer) -> None:
        self._index = PieceIndex()
        self._counts = np.zeros(1 << 12, np.int64)
        self._data = [np.zeros(0, np.uint8)]
        self._lengths = [np.zeros(0, np.int64)]
        special = [token.encode() for token in pretokenizer.special_tokens]
        self.add(b"".join(special), edges_of([len(token) for token in special]), 0)

    def add(self, data: bytes, edges: np.ndarray, counts: np.ndarray | int) -> None:
        """Add `counts` to those of the pieces that `edges` cut `data` into."""
        numbers, new = self._index.number(data + bytes(PieceIndex.PADDING), edges)
        if self._index.size > len(self._counts):
            self._counts = np.concatenate([self._counts, np.zeros(2 * self._index.size, np.int64)])
        np.add.at(self._counts, numbers, counts)
        new_data, lengths = gather(data, edges, new)
        self._data.append(new_data)
        self._lengths.append(lengths)

    def result(self) -> PieceCounts:
        return PieceCounts(
            np.concatenate(self._data), np.concatenate(self._lengths), self._counts[: self._index.size]
        )


def edges_of(lengths: np.ndarray | list[int]) -> np.ndarray:
    """Return where pieces of these lengths start, one behind the other, and where the last ends."""
    edges = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=edges[1:])
    return edges


def gather(data: bytes, edges: np.ndarray, pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bytes of some of the pieces one behind the other, and the length of each."""
    starts, lengths = edges[pieces], edges[pieces + 1] - edges[pieces]
    shifted = edges_of(lengths)
    sources = np.repeat(starts - shifted[:-1], lengths)
    sources += np.arange(shifted[-1])
    return np.frombuffer(data, np.uint8)[sources], lengths


def count_pieces(
    read: Callable[[int], bytes],
    pretokenizer: Pretokenizer,
    on_progress: Callable[[int], object] = lambda num_bytes: None,
    block_size: int = BLOCK,
) -> PieceCounts:
    """Count the distinct pre-tokens of a stream; `on_progress` is told how many bytes were done."""
    pieces = _Counter(pretokenizer)
    for block in cut_blocks(read, pretokenizer, block_size):
        pieces.add(block.data, block.edges, 1)
        on_progress(int(block.edges[-1]))
    # Each distinct piece is there once now: split those that hold several pre-tokens, and count again.
    counted = pieces.result()
    data, edges = counted.data.tobytes(), edges_of(counted.lengths)
    token_starts = token_edges(data, edges, pretokenizer)
    if len(token_starts) == len(edges):
        return counted
    tokens = _Counter(pretokenizer)
    tokens.add(data, token_starts, counted.counts[np.searchsorted(edges, token_starts[:-1], "right") - 1])
    return tokens.result()


def add_counts(parts: Iterable[PieceCounts], pretokenizer: Pretokenizer) -> PieceCounts:
    """Add up the counts of several texts."""
    total = _Counter(pretokenizer)
    for part in parts:
        total.add(part.data.tobytes(), edges_of(part.lengths), part.counts)
    return total.result()
