"""Encode a stream of text, block by block, with memory that does not grow with the stream."""

from collections.abc import Callable, Iterator

import numpy as np

from tokenizer.blocks import BLOCK, cut_blocks, token_edges
from tokenizer.count import gather
from tokenizer.merge_pieces import PieceMerger
from tokenizer.piece_index import PieceIndex
from tokenizer.pretokenize import Pretokenizer
from tokenizer.runs import edges_of, runs

MAX_PIECES, MAX_BYTES = 1 << 19, 1 << 25  # of the distinct pieces that are remembered


class StreamEncoder:
    """Remembers the ids of each distinct piece, up to a bound, and looks up all pieces of a block at once.

    Args:
        pretokenizer: the pattern and the special tokens.
        special_ids: the ids of the special tokens, in the pretokenizer's order.
        merger: encodes a piece that comes for the first time.
        dtype: of the ids.
    """

    def __init__(
        self, pretokenizer: Pretokenizer, special_ids: list[int], merger: PieceMerger, dtype: np.dtype
    ) -> None:
        self._pretokenizer, self._special_ids, self._merger, self._dtype = (
            pretokenizer,
            special_ids,
            merger,
            dtype,
        )
        self._forget()

    def encode(
        self, read: Callable[[int], bytes], block_size: int = BLOCK, batch: int = 16, check: bool = True
    ) -> Iterator[tuple[np.ndarray, int]]:
        """Yield ids and the number of bytes they stand for, until the stream ends.

        Args:
            read: returns the next bytes of the stream, at most so many, and none at its end.
            block_size: how many bytes to read at a time.
            check: make sure that the text is UTF-8; needless if it was a str.
            batch: up to how many blocks to read before new pieces are merged, as NumPy is fast only on many.

        Raises:
            UnicodeDecodeError: the text is not UTF-8; its `start` counts from the start of the stream.
        """
        waiting: list[tuple[np.ndarray, int]] = []
        for block in cut_blocks(read, self._pretokenizer, block_size, check):
            waiting.append((self._number(block.data, block.edges), int(block.edges[-1])))
            if not self._new or len(waiting) == batch:
                yield from self._look_up(waiting)
                waiting = []
        yield from self._look_up(waiting)

    def _forget(self) -> None:
        """Start anew, with nothing but the special tokens, which are pieces like all others."""
        self._index = PieceIndex()
        self._num_bytes = 0
        self._new: list[tuple[np.ndarray, np.ndarray]] = []  # bytes and lengths of pieces to be merged
        special = [token.encode() for token in self._pretokenizer.special_tokens]
        self._number(b"".join(special), edges_of([len(token) for token in special]))
        self._new = []
        # The ids of all pieces, one behind the other; of each piece, where they start, how many they are,
        # the first.
        self._ids = np.array(self._special_ids, self._dtype)
        self._starts = np.arange(len(special))
        self._counts = np.ones(len(special), np.int64)
        self._first = self._ids

    def _number(self, data: bytes, edges: np.ndarray) -> np.ndarray:
        """Return the number of each piece, and note the new ones."""
        numbers, new = self._index.number(data + bytes(PieceIndex.PADDING), edges)
        if len(new):
            self._new.append(gather(data, edges, new))
            self._num_bytes += len(self._new[-1][0])
        return numbers

    def _look_up(self, blocks: list[tuple[np.ndarray, int]]) -> Iterator[tuple[np.ndarray, int]]:
        if self._new:
            self._merge_new()
        for numbers, num_bytes in blocks:
            yield self._ids_of(numbers), num_bytes
        if self._index.size > MAX_PIECES or self._num_bytes > MAX_BYTES:
            self._forget()

    def _merge_new(self) -> None:
        """Find the ids of the new pieces."""
        data = np.concatenate([data for data, _ in self._new])
        edges = edges_of(np.concatenate([lengths for _, lengths in self._new]))
        self._new = []
        ids, places = self._merger.merge(data, token_edges(data.tobytes(), edges, self._pretokenizer))
        bounds = np.searchsorted(places, edges)
        self._starts = np.concatenate([self._starts, bounds[:-1] + len(self._ids)])
        self._counts = np.concatenate([self._counts, np.diff(bounds)])
        self._ids = np.concatenate([self._ids, ids.astype(self._dtype)])
        self._first = self._ids[self._starts]

    def _ids_of(self, numbers: np.ndarray) -> np.ndarray:
        counts = self._counts.take(numbers)
        several = (counts > 1).nonzero()[0]
        if not len(several):
            return self._first.take(numbers)
        ends = np.cumsum(counts)
        ids = np.empty(ends[-1], self._dtype)
        starts = ends - counts
        ids[starts] = self._first.take(numbers)
        rest = counts.take(several) - 1
        sources = runs(self._starts.take(numbers.take(several)) + 1, rest)
        ids[runs(starts.take(several) + 1, rest)] = self._ids.take(sources)
        return ids
