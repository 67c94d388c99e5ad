"""Random numbers that are pure functions of their names.

Between versions, NumPy guarantees the raw bits of Philox but not its distributions. So everything random is made of
Philox bits (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3") by our own mapping.
"""

import hashlib

import numpy as np
from jaxtyping import Float64, UInt64


def philox(seed: int, stream: str, index: int = 0) -> np.random.Philox:
    """Return the generator of (seed, stream, index), independent of every other triple.

    The key is the seed and a hash of the stream's name. The index is the second word of the counter, so each index has
    2^64 draws of its own.
    """
    tag = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "little")
    return np.random.Philox(
        key=np.array([seed, tag], np.uint64), counter=np.array([0, index, 0, 0], np.uint64)
    )


def uniform(bits: UInt64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Map each 64 random bits to one of the 2^52 numbers (k + 1/2) / 2^52, which lie inside the interval (0, 1)."""
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def integers(bits: UInt64[np.ndarray, "*shape"], n: int) -> np.ndarray:
    """Map each 64 random bits to 0 .. n - 1, by the high word of a 128-bit product. The bias is below n / 2^64."""
    return np.array([int(b) * n >> 64 for b in bits.ravel()], np.int64).reshape(bits.shape)


def normal(generator: np.random.Philox, size: int) -> Float64[np.ndarray, " size"]:
    """Draw standard normal numbers by Box and Muller's transform (1958)."""
    u = uniform(generator.random_raw(2 * ((size + 1) // 2))).reshape(2, -1)
    radius, angle = np.sqrt(-2.0 * np.log(u[0])), 2.0 * np.pi * u[1]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size]


def truncated_normal(generator: np.random.Philox, size: int, limit: float) -> Float64[np.ndarray, " size"]:
    """Draw standard normal numbers conditioned on [-limit, limit]: numbers outside are drawn again."""
    z = normal(generator, size)
    while (outside := np.flatnonzero(np.abs(z) > limit)).size:
        z[outside] = normal(generator, outside.size)
    return z
