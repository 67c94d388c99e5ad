"""The bytes of all tokens in one array, from which the text of many ids is gathered at once."""

import struct
from collections.abc import Mapping

import numpy as np

from tokenizer.spans import edges_of, runs

HEAD = 16  # bytes; few tokens are longer
CHUNK = 1 << 15  # ids; the arrays of larger chunks no longer fit in a core's cache


class TokenTable:
    """Maps arrays of token ids to bytes.

    Args:
        vocab: id -> bytes; not empty.
    """

    def __init__(self, vocab: Mapping[int, bytes]) -> None:
        tokens = [vocab.get(i) for i in range(max(vocab) + 1)]
        self._lengths = np.array([-1 if token is None else len(token) for token in tokens])  # -1: no token
        self._starts = edges_of(np.maximum(self._lengths, 0))[:-1]
        self._data = np.frombuffer(b"".join(filter(None, tokens)) + bytes(HEAD), np.uint8)
        self._heads = _heads(self._data)[self._starts]

    def join(self, ids: list[int] | np.ndarray) -> bytes | None:
        """Return the bytes of the tokens with these ids, or None if an item is not the id of a token.

        An array has one dimension and holds integers.
        """
        joined = []
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            if isinstance(chunk, list):
                try:
                    chunk = np.frombuffer(struct.pack(f"{len(chunk)}q", *chunk), np.int64)
                except struct.error:
                    return None
            if (part := self._join(chunk.astype(np.int64, copy=False))) is None:
                return None
            joined.append(part)
        return b"".join(joined)

    def _join(self, ids: np.ndarray) -> bytes | None:
        if ids.min() < 0 or ids.max() >= len(self._lengths):
            return None
        lengths = self._lengths.take(ids)
        if lengths.min() < 0:
            return None
        ends = np.cumsum(lengths)
        starts = ends - lengths
        joined = np.empty(ends[-1] + HEAD, np.uint8)
        long = (lengths > HEAD).nonzero()[0]
        if len(long):
            rest = lengths[long] - HEAD
            joined[runs(starts[long] + HEAD, rest)] = self._data[runs(self._starts[ids[long]] + HEAD, rest)]
        # NumPy writes in order, so each token overwrites what the heads before it wrote beyond their own tokens.
        _heads(joined)[starts] = self._heads.take(ids)
        return joined[:-HEAD].tobytes()


def _heads(data: np.ndarray) -> np.ndarray:
    """Return a view of `HEAD` bytes from each place on, except from the last `HEAD - 1` places."""
    return np.ndarray(len(data) - HEAD + 1, f"V{HEAD}", data, strides=(1,))
