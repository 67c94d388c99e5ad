"""Count the distinct pre-tokens of a text."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tokenizer.cuts import BLOCK, cut_blocks
from tokenizer.errors import InputError
from tokenizer.files.pairs import read_pairs
from tokenizer.files.reading import not_utf8
from tokenizer.files.sources import is_pairs
from tokenizer.parallel.dask_engine import divide, reduce_tasks
from tokenizer.parallel.ranges import cut_files, open_range
from tokenizer.parallel.workers import Result, Task, run_tasks
from tokenizer.piece_index import PieceIndex
from tokenizer.pretokenize import Pretokenizer
from tokenizer.progress import Progress
from tokenizer.spans import edges_of, gather
from tokenizer.token_edges import token_edges

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class PieceCounts:
    """Distinct pieces, concatenated in `data`, and their counts. Special tokens come first."""

    data: np.ndarray  # uint8
    lengths: np.ndarray  # int64, of each piece in bytes
    counts: np.ndarray  # int64, of each piece


class _Counter:
    """Adds up how often pieces occur, and keeps the bytes of each."""

    def __init__(self, special_tokens: Sequence[str]) -> None:
        self._index = PieceIndex()
        self._counts = np.zeros(0, np.int64)
        self._waiting = [np.zeros(0, np.int64)]  # numbers of pieces to count
        self._num_waiting = 0
        self._data = [np.zeros(0, np.uint8)]
        self._lengths = [np.zeros(0, np.int64)]
        special = [token.encode() for token in special_tokens]
        self._number(b"".join(special), edges_of([len(token) for token in special]))

    def add(self, data: bytes, edges: np.ndarray) -> None:
        """Count the pieces that `edges` cut `data` into."""
        numbers = self._number(data, edges)
        self._waiting.append(numbers)
        self._num_waiting += len(numbers)
        if self._num_waiting > 1 << 20:  # adding up costs time for every distinct piece
            self._add_up()

    def add_counted(self, data: bytes, edges: np.ndarray, counts: np.ndarray) -> None:
        """Count each piece as often as `counts` says."""
        numbers = self._number(data, edges)
        self._add_up()
        np.add.at(self._counts, numbers, counts)

    def result(self) -> Result:
        """Return the distinct pieces concatenated, the length of each and its count."""
        self._add_up()
        return [np.concatenate(self._data), np.concatenate(self._lengths), self._counts]

    def _number(self, data: bytes, edges: np.ndarray) -> np.ndarray:
        numbers, new = self._index.number(data + bytes(PieceIndex.PADDING), edges)
        if len(new):
            new_data, lengths = gather(data, edges, new)
            self._data.append(new_data)
            self._lengths.append(lengths)
        return numbers

    def _add_up(self) -> None:
        counts = np.bincount(np.concatenate(self._waiting), minlength=self._index.size)
        counts[: len(self._counts)] += self._counts
        self._counts = counts
        self._waiting, self._num_waiting = self._waiting[:1], 0


class CountWorker:
    """Counts the distinct pieces of ranges of files; a `workers.Worker`."""

    def __init__(self, pretokenizer: Pretokenizer, block_size: int) -> None:
        self._pretokenizer = pretokenizer
        self._block_size = block_size
        self._pieces = _Counter(self._pretokenizer.special_tokens)

    def setup(self) -> dict[str, Any]:
        """Return the argument of `from_setup`."""
        return {
            "pattern": self._pretokenizer.pattern,
            "special_tokens": self._pretokenizer.special_tokens,
            "block_size": self._block_size,
        }

    @classmethod
    def from_setup(cls, setup: dict[str, Any]) -> Self:
        """Make a worker in another process."""
        pretokenizer = Pretokenizer(setup["pattern"], setup["special_tokens"])
        return cls(pretokenizer, setup["block_size"])

    def run(self, task: Task) -> Result:
        """Count the pieces of a range. Return nothing: `finish` returns the counts."""
        path, start, end = task
        if is_pairs(path):
            self._count_pairs(path, start, end)
            return []
        try:
            with open_range(path, start, end) as read:
                for block in cut_blocks(read, self._pretokenizer, self._block_size):
                    self._pieces.add(block.data, block.edges)
        except UnicodeDecodeError as error:
            raise InputError(not_utf8(path, start + error.start)) from None
        return []

    def _count_pairs(self, path: str, start: int, end: int) -> None:
        """Count the pieces of pairs: prefixes and targets, each a text of its own."""
        pieces: Counter[str] = Counter()
        for prefix, target, _ in read_pairs(path, start, end):
            pieces.update(self._pretokenizer.split(prefix))
            pieces.update(self._pretokenizer.split(target))
        data = [piece.encode() for piece in pieces]
        edges = edges_of([len(piece) for piece in data])
        self._pieces.add_counted(b"".join(data), edges, np.array([*pieces.values()]))

    def finish(self) -> Result:
        """Return the distinct pre-tokens, special tokens first: data, lengths, counts."""
        data, lengths, counts = counted = self._pieces.result()
        # Each distinct piece is there once. Split the pieces that hold several pre-tokens, and count again.
        edges = edges_of(lengths)
        token_starts = token_edges(data.tobytes(), edges, self._pretokenizer)
        if len(token_starts) == len(edges):
            return counted
        tokens = _Counter(self._pretokenizer.special_tokens)
        tokens.add_counted(
            data.tobytes(), token_starts, counts[np.searchsorted(edges, token_starts[:-1], "right") - 1]
        )
        return tokens.result()


def count_pieces(
    paths: list[str],
    pretokenizer: Pretokenizer,
    num_workers: int,
    progress: Progress,
    range_size: int,
    block_size: int = BLOCK,
) -> PieceCounts:
    """Count the distinct pre-tokens of files, including special tokens.

    Raises:
        InputError: a file is not UTF-8.
    """
    worker = CountWorker(pretokenizer, block_size)
    ranges = list(cut_files(paths, pretokenizer, range_size))
    results = run_tasks(worker, ranges, num_workers)
    for _, start, end in ranges:
        next(results)
        progress(end - start)
    return PieceCounts(*add_counts(pretokenizer.special_tokens, list(results)))


def count_pieces_on(
    client: "Client", paths: list[str], num_bytes: int, pretokenizer: Pretokenizer, progress: Progress
) -> PieceCounts:
    """Count as `count_pieces` does, on a Dask cluster. Dask shows the progress."""
    paths, range_size = divide(paths, num_bytes, client)
    ranges = cut_files(paths, pretokenizer, range_size)
    add = partial(add_counts, pretokenizer.special_tokens)
    counted = reduce_tasks(CountWorker(pretokenizer, BLOCK), ranges, add, client)
    progress(num_bytes)
    return PieceCounts(*counted)


def add_counts(special_tokens: Sequence[str], parts: list[Result]) -> Result:
    """Add up several counts: data, lengths, counts; special tokens first."""
    if len(parts) == 1:
        return parts[0]
    total = _Counter(special_tokens)
    for data, lengths, counts in parts:
        total.add_counted(data.tobytes(), edges_of(lengths), counts)
    return total.result()
