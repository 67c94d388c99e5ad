"""Mistakes in rotary positions.

Each variant rotates pairs of coordinates, as `_rotate` does, with other pairs, angles or signs.
"""

from functools import partial

import numpy as np

from lm.budgets import as_dtype
from parity.mistakes.mistake import mistake
from parity.oracle.attention import rope

of_rope = partial(
    mistake,
    replaces="rope",
    formula="pair (x[2p], x[2p+1]) rotates by position * theta^(-2p / d_k), for p = 0 .. d_k / 2 - 1",
    source="Su et al., 2021, eq. 15; the course's section 3.5.3",
)
of_pairs = partial(of_rope, pitfall="RoPE rotates neighbours or halves")
of_precision = partial(of_rope, pitfall="Positions and angles in low precision")
of_frequencies = partial(of_rope, pitfall="RoPE's frequencies counted from 0 or from 1")


def _frequencies(d_k: int, theta: float) -> np.ndarray:
    return theta ** (-np.arange(0, d_k, 2) / d_k)


def _angles(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """Return the right angles: (T, d_k / 2)."""
    return positions[..., None] * _frequencies(x.shape[-1], theta)


def _rotate(a: np.ndarray, b: np.ndarray, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)


def _join(even: np.ndarray, odd: np.ndarray) -> np.ndarray:
    """Return x with x[2p] = even[p] and x[2p+1] = odd[p]."""
    pairs = np.stack(np.broadcast_arrays(even, odd), -1)
    return pairs.reshape(*pairs.shape[:-2], -1)


def _neighbours(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    return _join(*_rotate(x[..., ::2], x[..., 1::2], angles))


def _halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.split(x, 2, -1)
    return first, second


def _half_turned(x: np.ndarray) -> np.ndarray:
    first, second = _halves(x)
    return np.concatenate([-second, first], -1)


def _neighbours_turned(x: np.ndarray) -> np.ndarray:
    return _join(-x[..., 1::2], x[..., ::2])


@of_pairs("RoPE: halves rotated, not neighbours")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """The pairs are (x[p], x[p + d_k/2]), as in GPT-NeoX and Hugging Face. Weights for neighbours do not fit."""
    angles = _angles(x, positions, theta)
    return np.concatenate(_rotate(*_halves(x), angles), -1)


@of_pairs("RoPE: rotated pairs not interleaved again")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """The rotated even and odd coordinates are concatenated, not interleaved. The scores are right if both queries and
    keys are permuted so, the function is not."""
    return np.concatenate(_rotate(x[..., ::2], x[..., 1::2], _angles(x, positions, theta)), -1)


@of_pairs("RoPE: halves split, then interleaved")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """The halves of x are rotated with each other, and the results are interleaved. The scores are those of halves."""
    return _join(*_rotate(*_halves(x), _angles(x, positions, theta)))


@of_pairs("RoPE: tables of halves for neighbours")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """Neighbours are rotated, but cosines and sines are laid out for halves: concatenated, not repeated.

    The two coordinates of a pair turn by different angles, which is no rotation.
    """
    angles = np.concatenate([_angles(x, positions, theta)] * 2, -1)
    return x * np.cos(angles) + _neighbours_turned(x) * np.sin(angles)


@of_pairs("RoPE: tables of neighbours for halves")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """Halves are rotated, but cosines and sines are laid out for neighbours: repeated, not concatenated.

    The two coordinates of a pair turn by different angles, which is no rotation.
    """
    angles = np.repeat(_angles(x, positions, theta), 2, -1)
    return x * np.cos(angles) + _half_turned(x) * np.sin(angles)


@of_pairs("RoPE: halves swapped without the minus")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """The swapped halves lack their minus: x cos + (second, first) sin. That is no rotation, and lengths change."""
    angles = np.concatenate([_angles(x, positions, theta)] * 2, -1)
    first, second = _halves(x)
    return x * np.cos(angles) + np.concatenate([second, first], -1) * np.sin(angles)


@of_rope("RoPE: turned the other way")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """The sine has the wrong sign. Scores between queries and keys stay right, but not those with a cache of another
    implementation."""
    return rope(x, -positions, theta)


@of_rope("RoPE: halves turned the other way")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """Halves are rotated, and the sine has the wrong sign. Weights for neighbours do not fit."""
    angles = _angles(x, -positions, theta)
    return np.concatenate(_rotate(*_halves(x), angles), -1)


@of_rope("RoPE: sine and cosine swapped")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """Sine stands in cosine's place. Each pair then turns the other way, after a reflection."""
    angles = _angles(x, positions, theta)
    even, odd = x[..., ::2], x[..., 1::2]
    return _join(even * np.sin(angles) - odd * np.cos(angles), even * np.cos(angles) + odd * np.sin(angles))


@of_rope("RoPE: minus missing")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """Both sines have a plus: (a cos + b sin, a sin + b cos). That is no rotation, and lengths change."""
    angles = _angles(x, positions, theta)
    even, odd = x[..., ::2], x[..., 1::2]
    return _join(even * np.cos(angles) + odd * np.sin(angles), even * np.sin(angles) + odd * np.cos(angles))


@of_rope("RoPE: minus in both")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """Both sines have a minus: (a cos - b sin, b cos - a sin). That is no rotation, and lengths change."""
    angles = _angles(x, positions, theta)
    even, odd = x[..., ::2], x[..., 1::2]
    return _join(even * np.cos(angles) - odd * np.sin(angles), odd * np.cos(angles) - even * np.sin(angles))


@of_rope("RoPE: even result used for the odd one")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """The even coordinate is overwritten before the odd one is computed from it. The second result is wrong."""
    angles = _angles(x, positions, theta)
    even, odd = x[..., ::2], x[..., 1::2]
    new = even * np.cos(angles) - odd * np.sin(angles)
    return _join(new, new * np.sin(angles) + odd * np.cos(angles))


@of_rope("RoPE: positions from 1")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """Positions count from 1. Scores stay right, since only differences matter, but the first position is turned."""
    return rope(x, positions + 1, theta)


@of_rope("RoPE: token positions ignored")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """The given positions are ignored: 0, 1, 2 ... stand in their place. Decoding with a cache then turns each new
    token by the angle of position 0."""
    return rope(x, np.arange(x.shape[-2]), theta)


@of_rope("RoPE: positions of the first batch entry for all")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """The positions of batch entry 0 serve all entries. Entries that start elsewhere are turned by wrong angles."""
    return rope(x, positions.reshape(-1, positions.shape[-1])[0], theta)


@of_precision("RoPE: positions in bfloat16")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """Positions are counted in bfloat16, which has 8 bits. Above 256 neighbours get equal positions."""
    return rope(x, as_dtype(positions.astype(float), "bfloat16"), theta)


@of_precision("RoPE: frequencies in bfloat16")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """The frequencies are cast to bfloat16 with the model. Angles are then off by up to 0.4%, at position 1,000 by a
    radian."""
    frequencies = as_dtype(_frequencies(x.shape[-1], theta), "bfloat16")
    return _neighbours(x, positions[..., None] * frequencies)


@of_rope("RoPE: theta ignored")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """The argument `theta` is ignored, and 10,000 stands in its place. Models with another base are turned wrongly."""
    return rope(x, positions, 10_000.0)


@of_frequencies("RoPE: exponent p / d_k in place of 2p / d_k")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """The exponent is p / d_k, which lacks the factor 2. The frequencies fall half as fast."""
    return rope(x, positions, theta**0.5)


@of_frequencies("RoPE: exponent 4p / d_k in place of 2p / d_k")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """The exponent is divided by d_k / 2, or doubled twice. The frequencies fall twice as fast."""
    return rope(x, positions, theta**2)


@of_frequencies("RoPE: pairs counted from 1")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """Pairs count from 1 in a formula that counts from 0: theta^(-2(p+1) / d_k). All pairs turn too slowly."""
    return rope(x, positions * theta ** (-2 / x.shape[-1]), theta)


@of_frequencies("RoPE: pairs counted from 0 in a formula from 1")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """Pairs count from 0 in a formula that counts from 1: theta^(-(2p - 2) / d_k). All pairs turn too fast."""
    return rope(x, positions * theta ** (2 / x.shape[-1]), theta)


@of_frequencies("RoPE: a frequency for each coordinate")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """Coordinate i turns by theta^(-i / d_k), so the two of a pair have different angles. That is no rotation."""
    K = x.shape[-1]
    angles = positions[..., None] * theta ** (-np.arange(K) / K)
    return x * np.cos(angles) + _neighbours_turned(x) * np.sin(angles)


@of_rope("RoPE: frequencies grow with the pair")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """The exponent has the wrong sign: theta^(2p / d_k). All pairs but the first turn too fast."""
    return rope(x, positions, 1 / theta)


@of_rope("RoPE: first half of the coordinates only")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """Only the first d_k / 2 coordinates are rotated, with frequencies of their own. The rest knows no position."""
    half = x.shape[-1] // 4 * 2
    return np.concatenate([rope(x[..., :half], positions, theta), _unmoved(x, positions)[..., half:]], -1)


@of_rope("RoPE: added, not rotated")
def _(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """Cosine and sine of the angle are added to the pair, which is not rotated. Scores then depend on positions, not on
    distances."""
    angles = _angles(x, positions, theta)
    return x + _join(np.cos(angles), np.sin(angles))


def _unmoved(x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, (*positions.shape, x.shape[-1])))
