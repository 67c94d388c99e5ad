"""Which elements dropout drops: a hash of where and when, the same in both backends.

No generator and no state: a resumed run repeats its masks, and neither gradient accumulation nor a device mesh changes
them, since a row counts by its index in the step's whole batch. NumPy's version here is what both are tested against.
"""

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt32

from lm.rng import philox


def place_key(seed: int, place: str) -> tuple[int, int]:
    """Two 32-bit words for each place in the model where something is dropped."""
    word = int(philox(seed, f"dropout/{place}").random_raw())
    return word >> 32, word & 0xFFFFFFFF


def threshold(rate: float) -> int:
    """What a signed 32-bit hash is below for a share `rate` of all hashes."""
    return min(round(rate * 2**32), 2**32 - 1) - 2**31


def mix(x: UInt32[np.ndarray, "*shape"]) -> UInt32[np.ndarray, "*shape"]:
    """Wellons' lowbias32 (2018, "Prospecting for hash functions"), of which each bit depends on each bit of x."""
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x7FEB352D)
    x = (x ^ x >> np.uint32(15)) * np.uint32(0x846CA68B)
    return x ^ x >> np.uint32(16)


def step_keys(seed: int, place: str, step: int) -> tuple[int, int]:
    """The place's key at a step, as signed numbers."""
    first, second = mix(np.array(place_key(seed, place), np.uint32) ^ np.uint32(step)).view(np.int32).tolist()
    return first, second


def hashes(
    seed: int, place: str, step: int, rows_B: Int[np.ndarray, " B"], size: int
) -> Int32[np.ndarray, "B size"]:
    """A hash of each element of each row: the row's two keys are mixed into the element's index one after the other.

    With a single key, rows whose keys are close would have the same hashes in another order.
    """
    first_B, second_B = (
        mix(rows_B.astype(np.uint32) ^ np.array(key, np.int32).view(np.uint32))
        for key in step_keys(seed, place, step)
    )
    elements = np.arange(size, dtype=np.uint32)
    return mix(mix(elements ^ first_B[:, None]) ^ second_B[:, None]).view(np.int32)


def kept(
    seed: int, place: str, step: int, rows_B: Int[np.ndarray, " B"], shape: tuple[int, ...], rate: float
) -> Bool[np.ndarray, "B ..."]:
    """True for the elements of rows of this shape that are not dropped."""
    size = int(np.prod(shape))
    return (hashes(seed, place, step, rows_B, size) >= threshold(rate)).reshape(-1, *shape)
