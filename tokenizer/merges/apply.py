"""Merge the bytes of many pieces at once, as byte-pair encoding does: the pair of lowest rank first."""

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from tokenizer.merges.token_array import At, TokenArray, group
from tokenizer.piece_index import HashTable
from tokenizer.spans import edges_of

LONG = 128  # bytes; shorter pieces are merged in lockstep, longer ones rank by rank
_NEVER = (1 << 31) - 1  # the rank of a pair that does not merge

Ranks = Mapping[tuple[int, int], tuple[int, int]]  # (left id, right id) -> (rank, id of both together)


class PieceMerger:
    """The merges of a vocabulary, ready to be applied to pieces.

    Args:
        byte_ids: the id of each byte.
        ranks: the merges, ranks ascending.
        whole: pieces that become one token although merges would not make it, each with its id.
    """

    def __init__(self, byte_ids: Sequence[int], ranks: Ranks, whole: Mapping[bytes, int]) -> None:
        self._whole = whole
        self._byte_ids = np.array(byte_ids, np.int64)
        self._ranks = ranks
        pairs = np.array([(*pair, merged) for pair, (_, merged) in ranks.items()], np.int64).reshape(-1, 3)
        left, right, merged = pairs.T
        self._table = HashTable(1)
        numbers, _ = self._table.number([_keys(left, right)], 0)
        # By number in the table; the last row, number -1, stands for pairs that are not there.
        self._rank = np.full(len(ranks) + 1, _NEVER)
        self._rank[numbers] = np.arange(len(ranks))
        self._merged = merged  # by rank
        self._byte_pair_rank = self._rank_of(np.repeat(self._byte_ids, 256), np.tile(self._byte_ids, 256))
        # Merging all occurrences of a pair before any of a later pair is right only if a merge never makes a
        # pair of lower rank. Trained merges never do.
        made_at = np.full(1 + int(pairs.max(initial=0)), -1)
        np.maximum.at(made_at, merged, np.arange(len(ranks)))
        self._is_ordered = bool((np.maximum(made_at[left], made_at[right]) < np.arange(len(ranks))).all())

    def merge(self, data: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all pieces, concatenated, and where in `data` each token starts."""
        ids = np.full(len(data), -1, np.int64)  # of the token that starts at a byte
        lengths = np.diff(edges)
        is_long = lengths > (LONG if self._is_ordered else len(data))
        if is_long.any():
            in_long = np.repeat(is_long, lengths)
            ids[in_long] = self._merge_by_rank(data[in_long], lengths[is_long])
            ids[~in_long] = self._merge_in_lockstep(data[~in_long], lengths[~is_long])
        else:
            ids = self._merge_in_lockstep(data, lengths)
        for start, end in pairwise(edges.tolist()) if self._whole else ():
            if (whole := self._whole.get(data[start:end].tobytes())) is not None:
                ids[start:end] = [whole, *[-1] * (end - start - 1)]
        starts = (ids >= 0).nonzero()[0]
        return ids[starts], starts

    def _merge_in_lockstep(self, data: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Merge one pair in every piece, the leftmost of its lowest rank, until no piece has any.

        Return for each byte the id of the token that starts there, or -1. The time is at most the number of
        tokens times the number of merges in the longest piece.
        """
        result = np.full(len(data), -1, np.int64)
        at = np.arange(len(data))
        ids = self._byte_ids.take(data)
        starts = np.cumsum(lengths) - lengths
        # The rank of each token with the next one in its piece. Most pairs are pairs of bytes, so these have
        # a table.
        ranks = np.full(len(data), _NEVER)
        ranks[:-1] = self._byte_pair_rank.take(data[:-1].astype(np.int64) << 8 | data[1:])
        ranks[starts[1:] - 1] = _NEVER
        while len(lengths):
            best = np.minimum.reduceat(ranks << 32 | np.arange(len(ids)), starts)
            rank, i = best >> 32, best & 0xFFFFFFFF
            active = rank != _NEVER
            if not active.all():
                # Pieces in which nothing merges are done.
                is_done = np.repeat(~active, lengths)
                done = is_done.nonzero()[0]
                result[at.take(done)] = ids.take(done)
                rank, i, starts, lengths = rank[active], i[active], starts[active], lengths[active]
            else:
                is_done = np.zeros(len(ids), bool)

            ids[i] = self._merged.take(rank)
            ranks[i] = _NEVER
            after = i[i + 2 < starts + lengths]
            ranks[after] = self._rank_of(ids.take(after), ids.take(after + 2))
            before = i[i > starts] - 1
            ranks[before] = self._rank_of(ids.take(before), ids.take(before + 1))

            is_done[i + 1] = True
            keep = (~is_done).nonzero()[0]
            ids, at, ranks = ids.take(keep), at.take(keep), ranks.take(keep)
            lengths = lengths - 1
            starts = np.cumsum(lengths) - lengths
        return result

    def _rank_of(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return self._rank.take(self._table.get([_keys(left, right)]))

    def _merge_by_rank(self, data: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Merge one pair everywhere, then the pair of the next rank. Return what `_merge_in_lockstep` does.

        The time is linear in the text, except for sorting.
        """
        tokens = TokenArray(data, lengths, 256 + len(self._ranks))
        first_places = (tokens.places > 0).nonzero()[0]
        ids = [-1, *self._byte_ids.tolist()]  # of each symbol
        waiting: dict[int, list[tuple[int, int, At]]] = defaultdict(list)  # by rank
        heap: list[int] = []

        def wait(left: int, right: int, at: At) -> None:
            rank, _ = self._ranks.get((ids[left], ids[right]), (None, None))
            if rank is not None:
                if rank not in waiting:
                    heapq.heappush(heap, rank)
                waiting[rank].append((left, right, at))

        places, lefts, rights = tokens.pairs()
        for key, at in group(lefts << 9 | rights, places):  # symbols of bytes are at most 256
            wait(key >> 9, key & 0x1FF, at)
        while heap:
            for left, right, at in waiting.pop(heapq.heappop(heap)):
                new = tokens.add_symbol(left, right)
                ids.append(self._ranks[ids[left], ids[right]][1])
                pairs = tokens.merge(tokens.find(at, left, right), left, right, new)
                for other, pairs_at in group(*pairs):
                    if other < 0:
                        wait(-other, new, pairs_at)
                    else:
                        wait(new, other, pairs_at)
        # Places that hold no first byte of a token are 0 or negative.
        return np.array(ids)[np.maximum(tokens.places[first_places], 0)]


def unmerged(tokens: Mapping[bytes, int], merger: PieceMerger) -> dict[bytes, int]:
    """Return those of the tokens that merging their bytes does not give."""
    data = np.frombuffer(b"".join(tokens), np.uint8)
    edges = edges_of([len(token) for token in tokens])
    ids, places = merger.merge(data, edges)
    first = np.searchsorted(places, edges)
    is_one = (np.diff(first) == 1) & (ids[first[:-1]] == list(tokens.values()))
    return {token: i for (token, i), one in zip(tokens.items(), is_one.tolist(), strict=True) if not one}


def _keys(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return a key for a `HashTable` for each pair of ids: not 0."""
    return (left << 32 | right).view(np.uint64) + np.uint64(1)
