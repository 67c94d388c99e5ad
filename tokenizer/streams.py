"""Encode a stream of text, block by block, with memory that does not grow with the stream."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Self

import numpy as np

from tokenizer.cuts import BLOCK, cut_blocks
from tokenizer.merges.apply import PieceMerger, Ranks
from tokenizer.normalizer import Normalization
from tokenizer.piece_index import PieceIndex
from tokenizer.pretokenize import Pretokenizer, encode_utf8
from tokenizer.spans import edges_of, gather, runs
from tokenizer.token_edges import token_edges

FIRST_BLOCK = 1 << 14  # bytes
MAX_PIECES, MAX_BYTES = 1 << 19, 1 << 25  # of the distinct pieces that are remembered


class StreamEncoder:
    """Remembers the ids of each distinct piece, up to a bound, and looks up all pieces of a block at once.

    Args:
        pretokenizer: the pattern and the special tokens.
        special_ids: the ids of the special tokens, in the pretokenizer's order.
        byte_ids: the id of each byte.
        ranks: the merges, ranks ascending.
        dtype: of the ids.
        whole: pieces that become one token although merges would not make it, each with its id.
    """

    def __init__(
        self,
        pretokenizer: Pretokenizer,
        special_ids: list[int],
        byte_ids: list[int],
        ranks: Ranks,
        dtype: np.dtype,
        whole: Mapping[bytes, int],
    ) -> None:
        self._pretokenizer, self._special_ids = pretokenizer, special_ids
        self._dtype = dtype
        self.byte_ids, self.ranks, self.whole = byte_ids, ranks, whole
        self._is_warm = False
        self._forget()

    def setup(self) -> dict[str, Any]:
        """Return the argument of `from_setup`, as JSON can express it."""
        return {
            "pattern": self._pretokenizer.pattern,
            "special_tokens": self._pretokenizer.special_tokens,
            "normalization": self._pretokenizer.normalization.to_json(),
            "special_ids": self._special_ids,
            "byte_ids": self.byte_ids,
            "merges": [[*pair, merged] for pair, (_, merged) in self.ranks.items()],
            "dtype": self._dtype.str,
            "whole": [(piece.hex(), i) for piece, i in self.whole.items()],
        }

    @classmethod
    def from_setup(cls, setup: dict[str, Any]) -> Self:
        """Make an equal encoder in another process. It has seen no text yet."""
        return cls(
            Pretokenizer(
                setup["pattern"], setup["special_tokens"], Normalization.from_json(setup["normalization"])
            ),
            setup["special_ids"],
            setup["byte_ids"],
            {(left, right): (rank, merged) for rank, (left, right, merged) in enumerate(setup["merges"])},
            np.dtype(setup["dtype"]),
            {bytes.fromhex(piece): i for piece, i in setup["whole"]},
        )

    @cached_property
    def merger(self) -> PieceMerger:
        """The merges, which encode a piece that is not remembered."""
        return PieceMerger(self.byte_ids, self.ranks, self.whole)

    def encode(
        self, read: Callable[[int], bytes], block_size: int = BLOCK, batch: int = 16, check: bool = True
    ) -> Iterator[tuple[np.ndarray, int]]:
        """Yield ids and the number of bytes they stand for, until the stream ends.

        Args:
            read: returns the next bytes of the stream, at most as many as its argument says, and none at the end.
            block_size: how many bytes to read at a time.
            check: make sure that the text is UTF-8. A text that was a str needs no check.
            batch: how many blocks to read at most before new pieces are merged. NumPy is fast only on many pieces.

        Raises:
            UnicodeDecodeError: the text is not UTF-8; its `start` counts from the start of the stream.
        """
        waiting: list[tuple[np.ndarray, int]] = []
        # While all pieces are new, small blocks are faster: each piece is new in one block only.
        first_size = block_size if self._is_warm else FIRST_BLOCK
        self._is_warm = True
        for block in cut_blocks(read, self._pretokenizer, block_size, first_size, check):
            waiting.append((self._number(block.data, block.edges), int(block.edges[-1])))
            if not self._new or len(waiting) == batch:
                yield from self._look_up(waiting)
                waiting = []
        yield from self._look_up(waiting)

    def _forget(self) -> None:
        """Forget all pieces except the special tokens."""
        self._index = PieceIndex()
        self._num_bytes = 0
        self._new: list[tuple[np.ndarray, np.ndarray]] = []  # bytes and lengths of pieces to be merged
        special = [token.encode() for token in self._pretokenizer.special_tokens]
        numbers = self._number(b"".join(special), edges_of([len(token) for token in special]))
        self._new = []
        # The ids of all pieces in one array. For each piece: where its ids start, how many it has, the first.
        self._ids = np.zeros(len(special), self._dtype)
        self._ids[numbers] = self._special_ids
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
        ids, places = self.merger.merge(data, token_edges(data.tobytes(), edges, self._pretokenizer))
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


def reader_of(texts: Iterable[str], wanted: int = 1) -> Callable[[int], bytes]:
    """Return a function that reads the next `size` bytes (about) of the joined texts, and none at their end.

    The first call reads `wanted` characters or a little more, each later call twice as many. So ids come early, and
    long inputs are fast.
    """
    iterator = iter(texts)
    text, start = "", 0

    def read(size: int) -> bytes:
        nonlocal text, start, wanted
        parts, found = [], 0
        while found < min(wanted, size):
            if start == len(text):
                try:
                    text, start = next(iterator), 0
                except StopIteration:
                    break
            part = text[start : start + size]
            parts.append(part)
            start += len(part)
            found += len(part)
        wanted *= 2
        return encode_utf8("".join(parts))

    return read
