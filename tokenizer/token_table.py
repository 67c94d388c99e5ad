"""The bytes of all tokens in one array, from which the text of many ids is gathered at once."""

from array import array
from collections.abc import Mapping

import numpy as np

from tokenizer.spans import edges_of, runs

# The first bytes of each token; few tokens are longer. NumPy gathers complex numbers in half of the time of raw bytes.
HEAD = np.dtype(np.complex128)
CHUNK = 1 << 15  # ids; the arrays of larger chunks no longer fit in a core's cache


class TokenTable:
    """Maps arrays of token ids to bytes.

    Args:
        vocab: id -> bytes; not empty.
    """

    def __init__(self, vocab: Mapping[int, bytes]) -> None:
        ids = np.fromiter(vocab, np.int64, len(vocab))
        lengths = np.fromiter(map(len, vocab.values()), np.int64, len(vocab))
        self._lengths = np.full(ids.max() + 1, -1)  # -1: no token
        self._lengths[ids] = lengths
        self._starts = np.zeros_like(self._lengths)
        self._starts[ids] = edges_of(lengths)[:-1]
        self._data = np.frombuffer(b"".join(vocab.values()) + bytes(HEAD.itemsize), np.uint8)
        self._heads = _heads(self._data)[self._starts]

    def join(self, ids: list[int] | np.ndarray) -> bytes | None:
        """Return the bytes of the tokens with these ids, or None if an item is not the id of a token.

        An array has one dimension and holds integers.
        """
        if isinstance(ids, list):
            # `fromlist` reads each item without changing its count of references: half of the time of other ways.
            numbers = array("Q")
            try:
                numbers.fromlist(ids)
            except (TypeError, OverflowError):
                return None
            ids = np.frombuffer(numbers, np.int64)
        joined = []
        for start in range(0, len(ids), CHUNK):
            if (part := self._join(ids[start : start + CHUNK].astype(np.int64, copy=False))) is None:
                return None
            joined.append(part)
        return b"".join(joined)

    def _join(self, ids: np.ndarray) -> bytes | None:
        if ids.min() < 0 or ids.max() >= len(self._lengths):
            return None
        # No id is out of range. A gather that clips is faster than one that looks for such ids once more.
        lengths = self._lengths.take(ids, mode="clip")
        if lengths.min() < 0:
            return None
        ends = np.cumsum(lengths)
        starts = ends - lengths
        size = HEAD.itemsize
        joined = np.empty(ends[-1] + size, np.uint8)
        long = (lengths > size).nonzero()[0]
        if len(long):
            rest = lengths[long] - size
            joined[runs(starts[long] + size, rest)] = self._data[runs(self._starts[ids[long]] + size, rest)]
        # NumPy writes in order, so each token overwrites what the heads before it wrote beyond their own tokens.
        _heads(joined)[starts] = self._heads.take(ids, mode="clip")
        return joined[:-size].tobytes()


def _heads(data: np.ndarray) -> np.ndarray:
    """Return a view of a `HEAD` at each place, except at the last ones, where fewer bytes are left."""
    return np.ndarray(len(data) - HEAD.itemsize + 1, HEAD, data, strides=(1,))
