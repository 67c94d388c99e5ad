"""Dropout masks: hashes of seed, place, step, row and element, equal in both backends.

There is no generator and no state. So a resumed run repeats its masks. Rows are numbered within the step's whole batch,
so neither gradient accumulation nor a device mesh changes the masks. Both backends are tested against this NumPy
version.
"""

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt32

from lm.rng import philox


def place_key(seed: int, place: str) -> tuple[int, int]:
    """Return two 32-bit words for a place in the model at which dropout acts."""
    word = int(philox(seed, f"dropout/{place}").random_raw())
    return word >> 32, word & 0xFFFFFFFF


def threshold(rate: float) -> int:
    """Return the number that a share `rate` of all signed 32-bit hashes lies below."""
    return min(round(rate * 2**32), 2**32 - 1) - 2**31


def mix(x: UInt32[np.ndarray, "*shape"]) -> UInt32[np.ndarray, "*shape"]:
    """Hash 32-bit words, each bit from all bits, by Wellons' lowbias32 (2018, "Prospecting for hash functions")."""
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x7FEB352D)
    x = (x ^ x >> np.uint32(15)) * np.uint32(0x846CA68B)
    return x ^ x >> np.uint32(16)


def step_keys(seed: int, place: str, step: int) -> tuple[int, int]:
    """Return the place's key at a step, as two signed numbers."""
    first, second = mix(np.array(place_key(seed, place), np.uint32) ^ np.uint32(step)).view(np.int32).tolist()
    return first, second


def hashes(
    seed: int, place: str, step: int, rows_B: Int[np.ndarray, " B"], size: int
) -> Int32[np.ndarray, "B size"]:
    """Hash each element of each row: mix the row's two keys into the element's index, one after the other.

    With one key, rows with similar keys would have equal hashes in another order.
    """
    first_B, second_B = (
        mix(rows_B.astype(np.uint32) ^ np.array(key, np.int32).view(np.uint32))
        for key in step_keys(seed, place, step)
    )
    elements = np.arange(size, dtype=np.uint32)
    return mix(mix(elements ^ first_B[:, None]) ^ second_B[:, None]).view(np.int32)


def dropout_mask(
    seed: int, place: str, step: int, rows_B: Int[np.ndarray, " B"], shape: tuple[int, ...], rate: float
) -> Bool[np.ndarray, "B ..."]:
    """Return the mask of rows of this shape: True for elements that are kept."""
    size = int(np.prod(shape))
    return (hashes(seed, place, step, rows_B, size) >= threshold(rate)).reshape(-1, *shape)
