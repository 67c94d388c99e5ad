"""Words as a flat array of tokens, in which pairs of neighbours are merged in place."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

At = np.ndarray | list[int]  # places; a list if they are few

FEW = 40  # for up to this many places, a loop in Python is faster than a dozen calls of NumPy


class TokenArray:
    """Consecutive words, each a sequence of tokens.

    A token of n bytes takes n places. Its symbol (a positive number) stands in the first place and, negated, in the
    last; a token of one byte has the positive symbol only. The places between, and one place on either side of each
    word, hold 0. So the lengths of symbols lead to a token's neighbours without links, and a place tells whether a
    token still starts there.

    Symbol b + 1 is the byte b; `add_symbol` makes the longer symbols.
    """

    def __init__(self, data: np.ndarray, lengths: np.ndarray, max_symbols: int) -> None:
        """Hold the words of these lengths in `data` (uint8). No word is empty."""
        places = np.arange(len(data))
        places += np.repeat(np.arange(1, len(lengths) + 1), lengths)
        self.places = np.zeros(len(data) + len(lengths) + 1, np.int32)
        self.places[places] = data
        self.places[places] += 1
        self.lengths = np.ones(max_symbols + 1, np.int64)
        self.num_symbols = 256
        # To read single items, a memoryview (of the same memory) and a list are much faster than the arrays.
        self._places = memoryview(self.places)  # type: ignore[arg-type]
        self._lengths = [1] * 257

    def add_symbol(self, left: int, right: int) -> int:
        """Return a new symbol, as long as `left` and `right` together."""
        self._lengths.append(self._lengths[left] + self._lengths[right])
        self.num_symbols += 1
        self.lengths[self.num_symbols] = self._lengths[-1]
        return self.num_symbols

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return all pairs of neighbours: (place of the left token, left symbol, right symbol)."""
        starts = (self.places > 0).nonzero()[0].astype(np.int32)
        symbols = self.places[starts]
        adjacent = (np.diff(starts) == self.lengths[symbols[:-1]]).nonzero()[0]
        return starts[adjacent], symbols[adjacent], symbols[adjacent + 1]

    def find(self, at: At, left: int, right: int) -> At:
        """Return the places of `at` at which `left` and `right` still stand side by side."""
        length = self._lengths[left]
        if not isinstance(at, list):
            found = at[(self.places.take(at) == left) & (self.places.take(at + length) == right)]
            return found.tolist() if len(found) <= FEW else found
        places = self._places
        return [place for place in at if places[place] == left and places[place + length] == right]

    def merge(self, at: At, left: int, right: int, new: int) -> tuple[At, At]:
        """Merge `left` and `right` into `new` at all places `at`, as returned by `find`.

        If occurrences overlap (left == right), the first is merged, then the next that is free.

        Returns:
            The new pairs, by the symbol of the other one: negated in pairs (other, new), as it is in (new, other). A
            pair (new, new) counts as (new, other). Then the places of these pairs.
        """
        if isinstance(at, list):
            return self._merge_few(at, left, right, new)
        return self._merge_many(at, left, right, new)

    def _merge_few(self, at: list[int], left: int, right: int, new: int) -> tuple[At, At]:
        places, lengths = self._places, self._lengths
        if left == right:
            at.sort()
            free, end = [], 0
            for place in at:
                if place >= end:
                    free.append(place)
                    end = place + lengths[new]
            at = free
        to_middle, to_last = lengths[left], lengths[new] - 1
        for place in at:
            middle = place + to_middle
            places[middle - 1] = places[middle] = 0
            places[place + to_last] = -new
            places[place] = new
        others: list[int] = []
        pairs_at: list[int] = []
        for place in at:
            symbol = abs(places[place - 1])
            if symbol and symbol != new:
                others.append(-symbol)
                pairs_at.append(place - lengths[symbol])
            symbol = places[place + to_last + 1]
            if symbol:
                others.append(symbol)
                pairs_at.append(place)
        return others, pairs_at

    def _merge_many(self, at: np.ndarray, left: int, right: int, new: int) -> tuple[At, At]:
        places = self.places
        if left == right:
            at = np.sort(at)
            # Take every other one of each run of overlapping occurrences, from the first on.
            index = np.arange(len(at))
            is_first = np.diff(at, prepend=at[:1] - 2 * self._lengths[new]) != self._lengths[left]
            at = at[(index - np.maximum.accumulate(np.where(is_first, index, 0))) % 2 == 0]
        middle, end = at + self._lengths[left], at + self._lengths[new]
        places[middle] = 0
        places[middle - 1] = 0
        places[end - 1] = -new
        places[at] = new
        before, after = np.abs(places.take(at - 1)), places.take(end)
        has_before = ((before != 0) & (before != new)).nonzero()[0]
        has_after = after.nonzero()[0]
        before = before[has_before]
        others = np.concatenate([-before, after[has_after]])
        return others, np.concatenate([at[has_before] - self.lengths[before], at[has_after]])


def group(keys: At, at: At) -> Iterator[tuple[int, At]]:
    """Yield each of the keys with its places."""
    if isinstance(keys, list):
        places = defaultdict(list)
        for key, place in zip(keys, at, strict=True):
            places[key].append(place)
        yield from places.items()
    elif len(keys):
        keys, edges, at = sort_runs(keys, np.asarray(at))
        for key, start, end in zip(keys.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            yield key, few_as_list(at[start:end])


def sort_runs(keys: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort places by their keys; return (distinct keys, edges of their runs, places). `keys` is not empty."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    edges = np.concatenate([[0], (keys[1:] != keys[:-1]).nonzero()[0] + 1, [len(keys)]])
    return keys[edges[:-1]], edges, at[order]


def few_as_list(at: np.ndarray) -> At:
    """Return the places as a list if they are few, otherwise as a copy: a view would keep a larger array alive."""
    return at.tolist() if len(at) <= FEW else at.copy()
