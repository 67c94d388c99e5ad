"""Multi-head attention with all heads at once, in torch and JAX, with a switch for each mistake."""

from typing import Any

import numpy as np

from parity.case import Given
from tests.check.injected.arrays import Tree
from tests.check.injected.ask import Implementation
from tests.check.injected.attention import attention_weights, softmax

READS = {
    "keys and values swapped": {"k": "v", "v": "k"},
    "queries and values swapped": {"q": "v", "v": "q"},
    "q_proj used for the keys": {"k": "q"},
    "k_proj used for the values": {"v": "k"},
}
"""Projections that read another one's weight."""
ROTATED = {
    "RoPE missing": "",
    "RoPE on the queries only": "q",
    "RoPE on the keys only": "k",
    "RoPE on the values": "qkv",
}
NORMED = {"query and key norms missing": "", "norm of the queries only": "q", "norm of the keys only": "k"}


def rotate(xp: Any, x: Any, positions: np.ndarray, theta: float, width: int | None = None) -> Any:
    """Rotate neighbouring columns of x (..., T, K), as complex numbers; the exponents count pairs of `width`."""
    K = x.shape[-1]
    angles = positions[..., None] * float(theta) ** (-np.arange(0, K, 2) / (width or K))
    cos, sin = xp.array(np.cos(angles), x), xp.array(np.sin(angles), x)
    real, imaginary = x[..., 0::2], x[..., 1::2]
    pairs = xp.stack([real * cos - imaginary * sin, imaginary * cos + real * sin], -1)
    return pairs.reshape(x.shape)


def root_mean_square(x: Any, eps: float) -> Any:
    """Return sqrt(mean(x^2) + eps)."""
    return ((x**2).mean(axis=-1, keepdims=True) + eps) ** 0.5


def project(xp: Any, weights: Tree, name: str, x: Any, wrong: str) -> Any:
    """Multiply x by a projection's weight and add its bias."""
    read = READS.get(wrong, {}).get(name, name)
    if weights[f"{read}_proj.weight"].shape == weights[f"{name}_proj.weight"].shape:
        name = read
    weight = weights[f"{name}_proj.weight"]
    transposed = "output" if wrong == "output projection transposed" else "qkv"
    if wrong.endswith("transposed") and "projection" in wrong and name in transposed:
        weight = weight.T if weight.shape[0] == weight.shape[1] else weight
    y = xp.einsum("...i,oi->...o", x, weight)
    bias = weights.get(f"{name}_proj.bias")
    return y if bias is None or wrong == "biases of the projections ignored" else y + bias


def split(x: Any, K: int, wrong: str) -> Any:
    """(..., T, D) -> (..., H, T, K)."""
    *lead, T, D = x.shape
    if wrong in ("heads split without a transpose", "heads split and merged without transposes"):
        return x.reshape(*lead, D // K, T, K)
    if wrong.startswith("head as the inner axis of the split"):
        return x.reshape(*lead, T, K, D // K).swapaxes(-1, -2).swapaxes(-2, -3)
    return x.reshape(*lead, T, D // K, K).swapaxes(-2, -3)


def merge(x: Any, wrong: str) -> Any:
    """(..., H, T, K) -> (..., T, D)."""
    *lead, H, T, K = x.shape
    if wrong in ("heads merged without a transpose", "heads split and merged without transposes"):
        return x.reshape(*lead, T, H * K)
    x = x.swapaxes(-2, -3)
    if "inner axis" in wrong and wrong.endswith("merge"):
        x = x.swapaxes(-1, -2)
    return x.reshape(*lead, T, H * K)


def place(
    xp: Any, weights: Tree, name: str, x: Any, positions: np.ndarray | None, statics: Any, wrong: str
) -> Any:
    """Normalise and rotate all heads x (..., H, T, K) of queries, keys or values."""
    gain = weights.get(f"{name}_norm.weight")
    if wrong == "gains of query and key norms swapped" and gain is not None:
        gain = weights[f"{'k' if name == 'q' else 'q'}_norm.weight"]
    eps, theta, H = statics.get("eps", 1e-5), statics.get("theta", 1e4), x.shape[-3]
    if wrong == "RoPE: token positions ignored" and positions is not None:
        positions = np.arange(x.shape[-2])
    turns = positions is not None and name in ROTATED.get(wrong, "qk")
    if turns and positions is not None and positions.ndim > 1:
        positions = positions[..., None, :]

    def turn(x: Any) -> Any:
        if not turns or positions is None:
            return x
        width = x.shape[-1] * statics["num_heads"] if wrong == "RoPE's frequencies of d_model" else None
        return rotate(xp, x, positions, theta, width)

    def norm(x: Any) -> Any:
        if gain is None or name not in NORMED.get(wrong, "qk"):
            return x
        if wrong == "query and key norms over all heads":
            return x / over_heads(x, eps) * gain
        return x / root_mean_square(x, eps) * gain

    if wrong == "query and key norms after RoPE":
        return norm(turn(x))
    if wrong == "RoPE over the whole width" and turns and positions is not None:
        whole = norm(x).swapaxes(-2, -3).reshape(*x.shape[:-3], x.shape[-2], H * x.shape[-1])
        return split(
            rotate(xp, whole, np.squeeze(positions, -2) if positions.ndim > 1 else positions, theta),
            x.shape[-1],
            "",
        )
    return turn(norm(x))


def over_heads(x: Any, eps: float) -> Any:
    """Return the root mean square over all heads of x (..., H, T, K)."""
    return ((x**2).mean(axis=-1, keepdims=True).mean(axis=-3, keepdims=True) + eps) ** 0.5


def share(xp: Any, x: Any, num_heads: int, wrong: str) -> Any:
    """Repeat the heads of keys or values x (..., h, T, K) until there are num_heads."""
    h = x.shape[-3]
    if wrong == "grouped heads by modulo":
        return xp.concatenate([x] * (num_heads // h), -3)
    if wrong == "first key and value head for all" and h < num_heads:
        return xp.concatenate([x[..., :1, :, :]] * num_heads, -3)
    return xp.repeat(x, num_heads // h, -3)


def multihead(
    xp: Any,
    arrays: Tree,
    mask: np.ndarray | None,
    positions: np.ndarray | None,
    statics: Any,
    wrong: str = "",
) -> Any:
    """Multi-head self-attention of x, with weights by the course's names."""
    x, H = arrays["x"], statics["num_heads"]
    K = x.shape[-1] // H
    if wrong == "one head in place of many" and arrays["k_proj.weight"].shape[0] == x.shape[-1]:
        H, K = (H, K) if "q_norm.weight" in arrays else (1, x.shape[-1])
    weights = unpack(xp, arrays, H, K) if wrong == "packed projection split by heads" else arrays
    q, k, v = (
        place(xp, weights, n, split(project(xp, weights, n, x, wrong), K, wrong), positions, statics, wrong)
        for n in "qkv"
    )
    k, v = share(xp, k, H, wrong), share(xp, v, H, wrong)
    if wrong == "scores divided by the root of d_model":
        q = q * (K / x.shape[-1]) ** 0.5
    if wrong in ("heads attend to heads", "heads attend to earlier heads"):
        q, k, v = (a.swapaxes(-2, -3) for a in (q, k, v))
        scores = q @ k.swapaxes(-1, -2) / K**0.5
        if "earlier" in wrong:
            scores = xp.where(xp.ids(np.tril(np.ones((H, H), bool))), scores, -xp.inf)
        y = softmax(xp, scores) @ v
        merged = y.reshape(x.shape)
    else:
        merged = merge(attention_weights(xp, q, k, v, mask, wrong) @ v, wrong)
    y = merged if wrong == "output projection missing" else project(xp, weights, "output", merged, wrong)
    return x + y if wrong == "input added inside attention" else y


def unpack(xp: Any, weights: Tree, H: int, K: int) -> Tree:
    """Read the rows q, k, v of a packed projection as if they were grouped by heads."""
    mixed = dict(weights)
    for kind in ("weight", "bias"):
        parts = [weights[f"{n}_proj.{kind}"] for n in "qkv" if f"{n}_proj.{kind}" in weights]
        if len({tuple(part.shape) for part in parts}) == 1 and len(parts) == 3 and parts[0].shape[0] == H * K:
            packed = xp.concatenate(parts, 0)
            rows = np.arange(3 * H * K).reshape(H, 3, K)
            mixed |= {f"{n}_proj.{kind}": packed[xp.ids(rows[:, i].ravel())] for i, n in enumerate("qkv")}
    return mixed


def _multihead(xp: Any, arrays: Tree, given: Given, wrong: str) -> Any:
    T = arrays["x"].shape[-2]
    positions = given.constants.get("positions", np.arange(T) if "theta" in given.statics else None)
    mask = given.constants.get("mask", np.tri(T, dtype=bool))
    return multihead(xp, arrays, mask, positions, given.statics, wrong)


INJECTED: dict[str, Implementation] = dict.fromkeys(
    (
        "multihead_self_attention",
        "multihead_self_attention with rope",
        "multihead_self_attention of groups",
        "multihead_self_attention with norms",
        "multihead_self_attention with norms and rope",
    ),
    _multihead,
)
