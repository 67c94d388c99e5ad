"""Find the merges of byte-pair encoding: repeatedly the pair of neighbours that occurs most often."""

import heapq
from bisect import insort
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from tokenizer.counts import PieceCounts
from tokenizer.merges.token_array import At, TokenArray, few_as_list, sort_runs
from tokenizer.progress import Progress


def learn_merges(
    pieces: PieceCounts, num_merges: int, progress: Progress
) -> tuple[list[tuple[bytes, bytes]], int]:
    """Return the merges, fewer than asked for if no pair is left, and the number of tokens after them.

    All occurrences of a pair appear at once, when the younger of its two symbols does. Later merges only remove
    some of them. So a pair's first count stays an upper bound, and it is enough to recount a pair when its turn
    comes: no counts are kept up to date. Pairs wait in buckets by their bound. A pair that is rarer than its bound
    moves to a lower bucket. A pair that is as frequent as its bound is the most frequent of all. A bucket is worked
    off from the greatest pair of byte strings down, so that pair also wins all ties.

    Most pairs are rare and never have their turn. So pairs below a threshold are not kept. When no pair is left,
    the threshold is lowered and all pairs are listed again.
    """
    # Each merge removes at least one token. Memory is allocated for this many merges.
    num_merges = min(num_merges, int(pieces.lengths.sum()))
    return _Learner(pieces, num_merges).run(num_merges, progress)


# The strings of a pair, by which a bucket is sorted; its symbols; places at which it stands or once stood.
_Pair = tuple[bytes, bytes, int, int, At]


def first_threshold(weight: int, num_merges: int) -> int:
    """Guess by Zipf's law how often the last pair to be merged occurs. The guess affects the time only."""
    return 1 + weight // (64 * (num_merges + 1))


class _Learner:
    def __init__(self, pieces: PieceCounts, num_merges: int) -> None:
        self._tokens = TokenArray(pieces.data, pieces.lengths, 256 + num_merges)
        self._strings = [b"", *(bytes([byte]) for byte in range(256))]  # of each symbol
        # At every place of a word, how often the word occurs; and the same memory for reading single items.
        self._weights = np.zeros(len(self._tokens.places), np.int64)
        self._weights[self._tokens.places > 0] = np.repeat(pieces.counts, pieces.lengths)
        self._weight_items = memoryview(self._weights)  # type: ignore[arg-type]
        self._buckets: dict[int, list[_Pair]] = {}
        self._bounds: list[int] = []  # a heap of the buckets' bounds, negated
        self._threshold = first_threshold(int(self._weights.sum()), num_merges)
        self._list_pairs()

    def run(self, num_merges: int, progress: Progress) -> tuple[list[tuple[bytes, bytes]], int]:
        merges: list[tuple[bytes, bytes]] = []
        while len(merges) < num_merges:
            if not self._bounds:
                if self._threshold == 1:
                    break
                self._threshold = 1 + self._threshold // 8 if self._threshold > 8 else 1
                self._list_pairs()
                continue
            bound = -self._bounds[0]
            bucket = self._buckets[bound]
            bucket.sort()
            while bucket and len(merges) < num_merges:
                left_string, right_string, left, right, at = bucket.pop()
                still = self._tokens.find(at, left, right)
                if len(still) < len(at):  # rarer than its bound
                    self._add((left_string, right_string, left, right, still), self._count(still))
                    continue
                merges.append((left_string, right_string))
                self._strings.append(left_string + right_string)
                for pair, count in self._merge(left, right, still):
                    if count == bound:
                        insort(bucket, pair)
                    else:
                        self._add(pair, count)
                progress(1)
            heapq.heappop(self._bounds)
            del self._buckets[bound]
        return merges, int(self._weights[self._tokens.places > 0].sum())

    def _count(self, at: At) -> int:
        if isinstance(at, list):
            weights = self._weight_items
            return sum([weights[place] for place in at])
        return int(self._weights.take(at).sum())

    def _add(self, pair: _Pair, count: int) -> None:
        if count >= self._threshold:
            if count not in self._buckets:
                self._buckets[count] = []
                heapq.heappush(self._bounds, -count)
            self._buckets[count].append(pair)

    def _merge(self, left: int, right: int, at: At) -> Iterator[tuple[_Pair, int]]:
        """Merge a pair. Yield the new pairs that are frequent enough, with their counts."""
        new = self._tokens.add_symbol(left, right)
        others, pairs_at = self._tokens.merge(at, left, right, new)
        strings = self._strings
        for other, places, count in self._by_symbol(others, pairs_at):
            if other < 0:
                yield (strings[-other], strings[new], -other, new, places), count
            else:
                yield (strings[new], strings[other], new, other, places), count

    def _by_symbol(self, symbols: At, at: At) -> Iterator[tuple[int, At, int]]:
        """Yield each symbol, its places and their total weight, if that reaches the threshold."""
        if isinstance(symbols, list):
            total: defaultdict[int, int] = defaultdict(int)
            for symbol, place in zip(symbols, at, strict=True):
                total[symbol] += self._weight_items[place]
            for symbol, count in total.items():
                if count >= self._threshold:
                    yield (
                        symbol,
                        [place for other, place in zip(symbols, at, strict=True) if other == symbol],
                        count,
                    )
        elif len(symbols):
            # Most of many symbols do not reach the threshold.
            symbols, edges, at = sort_runs(symbols, np.asarray(at))
            counts = np.add.reduceat(self._weights.take(at), edges[:-1])
            for i in (counts >= self._threshold).nonzero()[0].tolist():
                yield int(symbols[i]), few_as_list(at[edges[i] : edges[i + 1]]), int(counts[i])

    def _list_pairs(self) -> None:
        """Find all pairs that reach the threshold."""
        at, left, right = self._tokens.pairs()
        if not len(at):
            return
        base = self._tokens.num_symbols
        keys = (left.astype(np.int64) - 1) * base + right - 1
        # Sorting is slow, so leave out rare pairs first, by adding up weights in a table where pairs may
        # share a place: no pair is more frequent than its place.
        hashed = keys % 4_194_301  # a prime
        frequent = (np.bincount(hashed, self._weights[at]) >= self._threshold)[hashed]
        # As few bytes as possible: keys of single bytes fit in uint16, which NumPy sorts in linear time.
        keys, at = keys[frequent].astype(np.min_scalar_type(base**2 - 1)), at[frequent]
        for key, places, count in self._by_symbol(keys, at):
            left_symbol, right_symbol = 1 + key // base, 1 + key % base
            pair = self._strings[left_symbol], self._strings[right_symbol], left_symbol, right_symbol, places
            self._add(pair, count)
