"""Encode short texts: a loop over pre-tokens, with few steps of Python for each."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import pairwise

import numpy as np

from tokenizer.merges.apply import LONG, unmerged
from tokenizer.pretokenize import Pretokenizer, encode_utf8
from tokenizer.streams import StreamEncoder

SHORT = 4096  # characters; for texts up to this length, a loop over pre-tokens is faster than blocks in NumPy
MAX_CACHED_PIECES = 1 << 16
FEW_PIECES = 1000  # merging so few takes less time than filling the table
_NEVER = 1 << 62  # the rank of a pair that does not merge


class ShortEncoder:
    """Remembers the ids of each distinct pre-token, up to a bound.

    After some pre-tokens it fills a table with all tokens that merging gives back, so that it merges only pre-tokens
    of several tokens from then on.

    Args:
        pretokenizer: the pattern and the special tokens.
        ids: the id of each token.
        streams: the encoder of long texts, with the same merges.
    """

    def __init__(self, pretokenizer: Pretokenizer, ids: Mapping[bytes, int], streams: StreamEncoder) -> None:
        self._pretokenizer, self._ids, self._streams = pretokenizer, ids, streams
        self._byte_ids = streams.byte_ids
        self._tokens: dict[str, Sequence[int]] = {}  # the table
        self._pieces: dict[str, Sequence[int]] = {}  # with what the table holds

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text.

        Raises:
            InputError: the text holds a lone surrogate, which UTF-8 cannot express.
        """
        found: list[int] = []
        known, split = self._pieces.get, self._pretokenizer.split_ordinary
        try:
            for i, part in enumerate(self._pretokenizer.parts(text)):
                if i % 2:
                    found.append(self._ids[part.encode()])
                else:
                    for piece in split(part):
                        found += known(piece) or self._encode_piece(piece)
        except UnicodeEncodeError:
            encode_utf8(text)  # says where
            raise
        return found

    def _encode_piece(self, piece: str) -> Sequence[int]:
        """Return the ids of a pre-token, and remember them unless it is long."""
        data = piece.encode()
        if len(data) > LONG:
            found, _ = self._streams.merger.merge(np.frombuffer(data, np.uint8), np.array([0, len(data)]))
            return found.tolist()
        if len(self._pieces) == FEW_PIECES and not self._tokens:
            self._tokens = self._table()
            self._pieces |= self._tokens
        if len(self._pieces) >= len(self._tokens) + MAX_CACHED_PIECES:
            self._pieces.clear()
            self._pieces |= self._tokens
        whole = self._streams.whole.get(data)
        self._pieces[piece] = ids = self._merge(data) if whole is None else [whole]
        return ids

    def _table(self) -> dict[str, Sequence[int]]:
        kept = self._ids.keys() - unmerged(self._ids, self._streams.merger).keys()
        table: dict[str, Sequence[int]] = {}
        for token in kept:
            with suppress(UnicodeDecodeError):  # a part of a character is no pre-token
                table[token.decode()] = (self._ids[token],)
        return table

    def _merge(self, data: bytes) -> list[int]:
        rows = self._rows
        ids = [self._byte_ids[byte] for byte in data]
        ranks = [
            rows[left].get(right, _NEVER) for left, right in pairwise(ids)
        ]  # of each id with the next one
        while ranks and (best := min(ranks)) != _NEVER:
            i = ranks.index(best)
            new = best & 0xFFFF_FFFF
            ids[i : i + 2] = [new]
            del ranks[i]
            if i:
                ranks[i - 1] = rows[ids[i - 1]].get(new, _NEVER)
            if i < len(ranks):
                ranks[i] = rows[new].get(ids[i + 1], _NEVER)
        return ids

    @cached_property
    def _rows(self) -> list[dict[int, int]]:
        """For each id, those that it merges with: the merge's rank in the high bits, the id of both in the low 32.

        Two keys of one integer are found in half the time of a pair, and one integer is compared faster than two.
        """
        none: dict[int, int] = {}
        rows = [none] * (1 + max(self._ids.values()))
        for (left, right), (rank, merged) in self._streams.ranks.items():
            if rows[left] is none:
                rows[left] = {}
            rows[left][right] = rank << 32 | merged
        return rows
