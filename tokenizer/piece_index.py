"""Number the distinct pieces of text, many at a time: hash tables in NumPy."""

import numpy as np

_FACTORS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93))  # odd, their bits well mixed


class HashTable:
    """A map from keys, one or two columns of uint64, to numbers.

    Open addressing. Whole arrays of keys are looked up at once, and keys are compared in full, so that the
    result is exact. The first column of a key must not be 0, which marks an empty slot. At most a quarter of
    the slots is used, so that most searches end at once. (`take` is a third faster than brackets.)
    """

    def __init__(self, num_columns: int) -> None:
        self._size = 0
        self._allocate(num_columns, bits=12)

    def _allocate(self, num_columns: int, bits: int) -> None:
        self._bits = bits
        self._columns = [np.zeros(1 << bits, np.uint64) for _ in range(num_columns)]
        self._numbers = np.zeros(1 << bits, np.int64)

    def number(self, keys: list[np.ndarray], next_number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of each key, and the positions where a key was seen for the first time.

        The new keys get the numbers from `next_number` on, in the order of those positions.
        """
        slots = self._home(keys)
        missing = self._probe(keys, slots, self._differ(keys, slots).nonzero()[0])
        numbers = self._numbers.take(slots)
        new = [missing[:0]]
        while len(missing):
            # Add a bounded part at a time: in a first block most of them repeat, and would make the table
            # grow.
            batch = missing[: len(self._numbers) // 8]
            missing = missing[len(batch) :]
            if self._size + len(batch) > len(self._numbers) // 4:
                self._grow()
            numbers[batch], first = self._add([key[batch] for key in keys], next_number)
            next_number += len(first)
            new.append(batch[first])
        return numbers, np.concatenate(new)

    def get(self, keys: list[np.ndarray]) -> np.ndarray:
        """Return the number of each key, -1 for those that have none."""
        slots = self._home(keys)
        missing = self._probe(keys, slots, self._differ(keys, slots).nonzero()[0])
        numbers = self._numbers.take(slots)
        numbers[missing] = -1
        return numbers

    def _home(self, keys: list[np.ndarray]) -> np.ndarray:
        """Return the slot where the search for each key starts: the high bits of a product."""
        hashed = keys[0] * _FACTORS[0]
        for key in keys[1:]:
            hashed ^= key * _FACTORS[1]
            hashed *= _FACTORS[0]
        hashed >>= np.uint64(64 - self._bits)
        return hashed.view(np.int64)

    def _differ(self, keys: list[np.ndarray], slots: np.ndarray) -> np.ndarray:
        """Return for each key whether its slot holds another key, or none."""
        differ = self._columns[0].take(slots) != keys[0]
        for column, key in zip(self._columns[1:], keys[1:], strict=True):
            differ |= column.take(slots) != key
        return differ

    def _probe(self, keys: list[np.ndarray], slots: np.ndarray, pending: np.ndarray) -> np.ndarray:
        """Move the `pending` ones of `slots` to their keys. Return those that met an empty slot instead."""
        missing = [pending[:0]]
        while len(pending):
            empty = self._columns[0][slots[pending]] == 0
            missing.append(pending[empty])
            pending = pending[~empty]
            self._step(keys, slots, pending)
            pending = pending[self._differ([key[pending] for key in keys], slots[pending])]
        return np.concatenate(missing)

    def _step(self, keys: list[np.ndarray], slots: np.ndarray, pending: np.ndarray) -> None:
        """Move each of the `pending` ones of `slots` by a step that depends on its key. Odd steps reach every slot."""
        steps = keys[0][pending].view(np.int64) | 1
        slots[pending] = (slots[pending] + steps) & (len(self._numbers) - 1)

    def _add(self, keys: list[np.ndarray], next_number: int) -> tuple[np.ndarray, np.ndarray]:
        """Number keys, most of them new. Return (numbers, one position of each new key)."""
        slots = self._place(keys)
        new = (self._numbers[slots] == -1).nonzero()[0]
        # Equal keys share a slot: the one that is written last stands for all of them.
        self._numbers[slots[new]] = new
        first = new[self._numbers[slots[new]] == new]
        self._numbers[slots[first]] = next_number + np.arange(len(first))
        self._size += len(first)
        return self._numbers[slots], first

    def _place(self, keys: list[np.ndarray]) -> np.ndarray:
        """Return the slot of each key, after writing those that are missing with the number -1."""
        slots = self._home(keys)
        pending = np.arange(len(slots))
        while len(pending):
            empty = pending[self._columns[0][slots[pending]] == 0]
            # If several keys want one slot, the key that is written last gets it.
            for column, key in zip(self._columns, keys, strict=True):
                column[slots[empty]] = key[empty]
            self._numbers[slots[empty]] = -1
            pending = pending[self._differ([key[pending] for key in keys], slots[pending])]
            self._step(keys, slots, pending)
        return slots

    def _grow(self) -> None:
        used = self._columns[0].nonzero()[0]
        keys, numbers = [column[used] for column in self._columns], self._numbers[used]
        self._allocate(len(keys), self._bits + 1)
        self._numbers[self._place(keys)] = numbers


# _LOW_BYTES[n] keeps the first n of 8 bytes.
_LOW_BYTES = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)
_LONGER = np.uint64(0xFFFF_FFFF_FFFF_FFFF)  # no eight bytes of UTF-8


def _pack(words: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return what the first `lengths` of the 8 bytes in each word make, in this machine's byte order."""
    packed = words.astype(np.uint64, copy=False)
    packed &= _LOW_BYTES.take(np.minimum(lengths, 8))
    return packed


class PieceIndex:
    """Numbers the distinct pieces of text from 0 on, in the order they come.

    Pieces of up to 8 bytes are looked up by their bytes as one integer, up to 16 as two, longer ones in a
    dict. As the integers do not tell trailing NUL bytes from none, a piece that holds one counts as a longer
    one.
    """

    PADDING = 16  # bytes that must follow the last piece

    def __init__(self) -> None:
        self.size = 0
        self._short, self._middle = HashTable(1), HashTable(2)
        self._long: dict[bytes, int] = {}
        for table, num_columns in ((self._short, 1), (self._middle, 2)):
            # Stands for all longer pieces; there from the start, so that it is never reported as new.
            table.number([np.array([_LONGER])] * num_columns, 0)

    def number(self, data: bytes, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of each piece, and the positions of those seen for the first time.

        The new pieces have the numbers from the old `size` on, in the order of those positions.

        Args:
            data: the text, then `PADDING` bytes.
            edges: piece i is `data[edges[i]:edges[i + 1]]`, and no piece is empty.
        """
        starts, lengths = edges[:-1], np.diff(edges)
        sizes = lengths
        if 0 in data[: edges[-1]]:
            has_nul = np.logical_or.reduceat(np.frombuffer(data, np.uint8)[: edges[-1]] == 0, starts)
            sizes = np.where(has_nul, len(data), lengths)
        # The eight bytes from each position on. Little-endian on every machine, so that the first n are the
        # low n.
        words = np.ndarray(len(data) - 7, "<u8", data, strides=(1,))
        keys = _pack(words.take(starts), lengths)  # (`take` copies all words first; that is faster for many)
        rest = (sizes > 8).nonzero()[0]
        keys[rest] = _LONGER
        numbers, new = self._short.number([keys], self.size)
        self.size += len(new)
        if len(rest):
            numbers[rest], new_rest = self._number_middle(
                data, words, starts[rest], lengths[rest], sizes[rest]
            )
            new = np.concatenate([new, rest[new_rest]])
        return numbers, new

    def _number_middle(
        self, data: bytes, words: np.ndarray, starts: np.ndarray, lengths: np.ndarray, sizes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        keys = [_pack(words[starts], lengths), _pack(words[starts + 8], lengths - 8)]
        rest = (sizes > 16).nonzero()[0]
        for key in keys:
            key[rest] = _LONGER
        numbers, new = self._middle.number(keys, self.size)
        self.size += len(new)
        if len(rest):
            numbers[rest], new_rest = self._number_long(data, starts[rest], lengths[rest])
            new = np.concatenate([new, rest[new_rest]])
        return numbers, new

    def _number_long(
        self, data: bytes, starts: np.ndarray, lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        numbers, new = [], []
        for i, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            number = self._long.setdefault(data[start : start + length], self.size)
            numbers.append(number)
            if number == self.size:
                self.size += 1
                new.append(i)
        return np.array(numbers, np.int64), np.array(new, np.int64)
