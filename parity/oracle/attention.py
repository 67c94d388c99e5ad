"""Rotary positions, scaled dot-product attention, and multi-head self-attention a head at a time."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from parity.oracle.functional import softcap
from parity.oracle.gradients import Weights
from parity.oracle.layers import linear, rmsnorm


def rope(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """Rotate pair p, (x[2p], x[2p+1]), by the angle position * theta^(-2p/K) (Su et al., 2021, eq. 15)."""
    return stretched_rope(x, positions, theta, [1.0] * (x.shape[-1] // 2))


def stretched_rope(
    x: np.ndarray, positions: np.ndarray, theta: float, stretch: Sequence[float]
) -> np.ndarray:
    """Rotate pair p as far as `rope` does at position / stretch[p]."""
    K = x.shape[-1]
    angle = positions[..., None] / np.array(stretch) / theta ** (2 * np.arange(K // 2) / K)
    cos, sin, a, b = np.cos(angle), np.sin(angle), x[..., ::2], x[..., 1::2]
    pairs = np.stack((a * cos - b * sin, a * sin + b * cos), -1)
    return pairs.reshape(*pairs.shape[:-2], K)


def attention_scores(Q: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Q K^T / sqrt(d_k)."""
    return np.asarray(Q @ K.mT / math.sqrt(Q.shape[-1]))


def attention_weights(
    Q: np.ndarray,
    K: np.ndarray,
    mask: np.ndarray | None,
    cap: float | None = None,
    score_dim: float | None = None,
) -> np.ndarray:
    """exp(score) as a share of the sum over the keys that a query may see; zeros if it may see none.

    Scores are Q K^T / sqrt(score_dim), then capped if there is a cap. By default score_dim is d_k.
    """
    may_see = np.ones((Q.shape[-2], K.shape[-2]), bool) if mask is None else mask
    scores = attention_scores(Q, np.where(np.asarray(may_see.any(-2))[..., None], K, 0))
    if score_dim is not None:
        scores = scores * math.sqrt(Q.shape[-1]) / math.sqrt(score_dim)
    if cap is not None:
        scores = softcap(scores, cap)
    largest = np.where(may_see, scores.real, -np.inf).max(-1, keepdims=True)
    exp = np.where(may_see, np.exp(np.where(may_see, scores - largest, 0)), 0)
    total = np.where(may_see.any(-1, keepdims=True), exp.sum(-1, keepdims=True), 1)
    return exp / total


def scaled_dot_product_attention(
    Q: np.ndarray, K: np.ndarray, V: np.ndarray, mask: np.ndarray | None, **of_scores: float
) -> np.ndarray:
    """Mean of the values that a query may see, weighted by `attention_weights`.

    Args:
        of_scores: `cap` and `score_dim` of `attention_weights`.
    """
    weights = attention_weights(Q, K, mask, **of_scores)
    has_weight = np.asarray((weights != 0).any(-2))[..., None]
    return np.asarray(weights @ np.where(has_weight, V, 0))


def project(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """Apply the linear layer {name}_proj."""
    return linear(x, weights[f"{name}_proj.weight"], weights.get(f"{name}_proj.bias", 0.0))


def split_heads(x: np.ndarray, K: int) -> list[np.ndarray]:
    """Return the heads of x (T, D): head h is columns h K .. (h + 1) K."""
    return [x[..., start : start + K] for start in range(0, x.shape[-1], K)]


def merge_heads(heads: list[np.ndarray]) -> np.ndarray:
    """Concatenate the heads' columns."""
    return np.concatenate(np.broadcast_arrays(*heads), -1)


def share_heads(heads: list[np.ndarray], num_heads: int) -> list[np.ndarray]:
    """Return a key (or value) head for each query head: successive query heads share one."""
    return [heads[h * len(heads) // num_heads] for h in range(num_heads)]


def norm_heads(heads: list[np.ndarray], gain: np.ndarray, eps: float) -> list[np.ndarray]:
    """Normalise each head by itself, or all heads by one root if the gain is as wide as all of them."""
    K = heads[0].shape[-1]
    if gain.shape[-1] == K:
        return [rmsnorm(head, gain, eps) for head in heads]
    mean_square = sum((head * head).sum(-1, keepdims=True) for head in heads) / gain.shape[-1]
    gains = split_heads(gain, K)
    return [head / np.sqrt(mean_square + eps) * g for head, g in zip(heads, gains, strict=True)]


def position_heads(
    weights: Weights,
    name: str,
    heads: list[np.ndarray],
    positions: np.ndarray | None,
    theta: float,
    eps: float,
    stretch: Sequence[float] | None = None,
) -> list[np.ndarray]:
    """Normalise queries or keys if the weights have a gain for this, then rotate them if there are positions."""
    if f"{name}_norm.weight" in weights:
        heads = norm_heads(heads, weights[f"{name}_norm.weight"], eps)
    if positions is None:
        return heads
    if stretch is None:
        return [rope(head, positions, theta) for head in heads]
    return [stretched_rope(head, positions, theta, stretch) for head in heads]


def queries_keys_values(
    weights: Weights,
    x: np.ndarray,
    num_heads: int,
    positions: np.ndarray | None,
    theta: float,
    eps: float,
    **of_rope: Sequence[float],
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Project x, and return the queries, keys and values of each of `num_heads` heads.

    Args:
        of_rope: `stretch` of `stretched_rope`, if RoPE is stretched.
    """
    K = weights["q_proj.weight"].shape[-2] // num_heads
    q, k, v = (split_heads(project(weights, name, x), K) for name in "qkv")
    q, k = (
        position_heads(weights, name, heads, positions, theta, eps, **of_rope)
        for name, heads in (("q", q), ("k", k))
    )
    return q, share_heads(k, num_heads), share_heads(v, num_heads)


def multihead_self_attention(
    weights: Weights,
    x: np.ndarray,
    num_heads: int,
    mask: np.ndarray,
    positions: np.ndarray | None = None,
    theta: float = 10_000.0,
    eps: float = 1e-5,
    drop: Callable[[np.ndarray], np.ndarray] = lambda weights: weights,
    stretch: Sequence[float] | None = None,
    **of_scores: float,
) -> np.ndarray:
    """Attend a head at a time, merge the heads' outputs, and multiply them by output_proj.

    Args:
        stretch: By how much the wavelength of each pair of RoPE is stretched.
        of_scores: `cap` and `score_dim` of `attention_weights`.
    """
    of_rope = {} if stretch is None else {"stretch": stretch}
    q, k, v = queries_keys_values(weights, x, num_heads, positions, theta, eps, **of_rope)
    weights_of_heads = [
        attention_weights(queries, keys, mask, **of_scores) for queries, keys in zip(q, k, strict=True)
    ]
    dropped = drop(np.stack(np.broadcast_arrays(*weights_of_heads), -3))
    heads = [dropped[..., h, :, :] @ values for h, values in enumerate(v)]
    return project(weights, "output", merge_heads(heads))


def causal_mask(T: int) -> np.ndarray:
    """True at (t, s) if s <= t."""
    return np.array([[s <= t for s in range(T)] for t in range(T)])


def window_mask(T: int, window: int) -> np.ndarray:
    """True at (t, s) if s is one of the `window` places that end with t."""
    return np.array([[t - window < s <= t for s in range(T)] for t in range(T)])
