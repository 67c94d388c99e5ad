"""Rotary positions in another hand: pairs are the last axis of a reshaped array, and tables turn them."""

from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from tests.check.injected.ask import Implementation


def tables(xp: Any, x: Any, positions: np.ndarray, theta: float, wrong: str) -> tuple[Any, Any]:
    """Return cosines and sines of the angles, (T, K/2) each, from NumPy."""
    K = x.shape[-1]
    p = np.arange(K // 2)
    exponent = 2 * p / K
    match wrong:
        case "RoPE: positions from 1":
            positions = positions + 1
        case "RoPE: token positions ignored":
            positions = np.arange(x.shape[-2])
        case "RoPE: positions of the first batch entry for all" if positions.ndim > 1:
            positions = positions[0]
        case "RoPE: positions in bfloat16":
            positions = positions.astype(bfloat16)
        case "RoPE: theta ignored":
            theta = 10_000.0
        case "RoPE: exponent p / d_k in place of 2p / d_k":
            exponent = p / K
        case "RoPE: exponent 4p / d_k in place of 2p / d_k":
            exponent = 2 * p / (K // 2)
        case "RoPE: pairs counted from 1":
            exponent = 2 * (p + 1) / K
        case "RoPE: pairs counted from 0 in a formula from 1":
            exponent = (2 * p - 2) / K
        case "RoPE: frequencies grow with the pair":
            exponent = -2 * p / K
        case "RoPE: a frequency for each coordinate":
            exponent = np.arange(K) / K
    frequencies = 1 / theta**exponent
    if wrong == "RoPE: frequencies in bfloat16":
        frequencies = frequencies.astype(bfloat16).astype(np.float64)
    angles = np.multiply.outer(np.asarray(positions, np.float64), frequencies)
    return xp.array(np.cos(angles), x), xp.array(np.sin(angles), x)


def rope(xp: Any, x: Any, positions: np.ndarray, theta: float, wrong: str = "") -> Any:
    if wrong == "RoPE: first half of the coordinates only":
        half = x.shape[-1] // 2
        return xp.concatenate([rope(xp, x[..., :half], positions, theta), x[..., half:]], -1)
    cos, sin = tables(xp, x, positions, theta, wrong)
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    match wrong:
        case "RoPE: halves rotated, not neighbours":
            return xp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
        case "RoPE: rotated pairs not interleaved again":
            return xp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
        case "RoPE: halves split, then interleaved":
            return xp.stack([first * cos - second * sin, second * cos + first * sin], -1).reshape(x.shape)
        case "RoPE: tables of halves for neighbours":
            turned = xp.stack([-b, a], -1).reshape(x.shape)
            return x * xp.concatenate([cos, cos], -1) + turned * xp.concatenate([sin, sin], -1)
        case "RoPE: tables of neighbours for halves":
            turned = xp.concatenate([-second, first], -1)
            return x * xp.repeat(cos, 2, -1) + turned * xp.repeat(sin, 2, -1)
        case "RoPE: halves swapped without the minus":
            turned = xp.concatenate([second, first], -1)
            return x * xp.concatenate([cos, cos], -1) + turned * xp.concatenate([sin, sin], -1)
        case "RoPE: halves turned the other way":
            return xp.concatenate([first * cos + second * sin, second * cos - first * sin], -1)
        case "RoPE: a frequency for each coordinate":
            return x * cos + xp.stack([-b, a], -1).reshape(x.shape) * sin
        case "RoPE: turned the other way":
            sin = -sin
        case "RoPE: sine and cosine swapped":
            cos, sin = sin, cos
        case "RoPE: minus missing":
            return xp.stack([a * cos + b * sin, b * cos + a * sin], -1).reshape(x.shape)
        case "RoPE: minus in both":
            return xp.stack([a * cos - b * sin, b * cos - a * sin], -1).reshape(x.shape)
        case "RoPE: even result used for the odd one":
            a = a * cos - b * sin
            return xp.stack([a, b * cos + a * sin], -1).reshape(x.shape)
        case "RoPE: added, not rotated":
            return (pairs + xp.stack([cos, sin], -1)).reshape(x.shape)
    return xp.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(x.shape)


INJECTED: dict[str, Implementation] = {
    "rope": lambda xp, arrays, given, wrong: rope(
        xp, arrays["x"], given.constants["positions"], given.statics["theta"], wrong
    )
}
