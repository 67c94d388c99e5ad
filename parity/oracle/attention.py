"""Rotary positions, scaled dot-product attention, and multi-head self-attention a head at a time."""

import math
from collections.abc import Callable

import numpy as np

from parity.oracle.gradients import Weights
from parity.oracle.layers import linear, rmsnorm


def rope(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """R x (Su et al., 2021, eq. 15): R is block-diagonal, and its block p rotates by position * theta^(-2p/K)."""
    K = x.shape[-1]
    R = np.zeros((*positions.shape, K, K))
    for p in range(K // 2):
        angle = positions / theta ** (2 * p / K)
        R[..., 2 * p, 2 * p] = np.cos(angle)
        R[..., 2 * p, 2 * p + 1] = -np.sin(angle)
        R[..., 2 * p + 1, 2 * p] = np.sin(angle)
        R[..., 2 * p + 1, 2 * p + 1] = np.cos(angle)
    return (R @ x[..., None])[..., 0]


def attention_scores(Q: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Q K^T / sqrt(d_k)."""
    return np.einsum("...tk,...sk->...ts", Q, K) / math.sqrt(Q.shape[-1])


def attention_weights(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """exp(score) as a share of the sum over the keys that a query may see; zeros if it may see none."""
    may_see = np.ones((Q.shape[-2], K.shape[-2]), bool) if mask is None else mask
    scores = attention_scores(Q, np.where(np.asarray(may_see.any(-2))[..., None], K, 0))
    largest = np.where(may_see, scores.real, -np.inf).max(-1, keepdims=True)
    exp = np.where(may_see, np.exp(np.where(may_see, scores - largest, 0)), 0)
    total = np.where(may_see.any(-1, keepdims=True), exp.sum(-1, keepdims=True), 1)
    return exp / total


def scaled_dot_product_attention(
    Q: np.ndarray, K: np.ndarray, V: np.ndarray, mask: np.ndarray | None
) -> np.ndarray:
    """Mean of the values that a query may see, weighted by `attention_weights`."""
    is_seen = True if mask is None else np.asarray(mask.any(-2))[..., None]
    return np.einsum("...ts,...sv->...tv", attention_weights(Q, K, mask), np.where(is_seen, V, 0))


def multihead_self_attention(
    weights: Weights,
    x: np.ndarray,
    num_heads: int,
    mask: np.ndarray,
    positions: np.ndarray | None = None,
    theta: float = 10_000.0,
    eps: float = 1e-5,
    drop: Callable[[np.ndarray], np.ndarray] = lambda weights: weights,
) -> np.ndarray:
    """Concatenate the heads' outputs, and multiply them by output_proj.

    Query head h is attention with rows h K .. (h + 1) K of q_proj. If keys and values have fewer heads, each of these
    serves equally many successive query heads. Queries and keys are normalised if the weights have gains for this, and
    then rotated if there are positions.
    """
    K = x.shape[-1] // num_heads
    queries_per_key = num_heads * K // weights["k_proj.weight"].shape[-2]
    weights_of_heads, values = [], []
    for h in range(num_heads):
        projected = {}
        for name, head in (("q", h), ("k", h // queries_per_key), ("v", h // queries_per_key)):
            rows = slice(head * K, (head + 1) * K)
            bias = weights[f"{name}_proj.bias"][..., rows] if f"{name}_proj.bias" in weights else 0.0
            projected[name] = linear(x, weights[f"{name}_proj.weight"][..., rows, :], bias)
        for name in "qk":
            if f"{name}_norm.weight" in weights:
                projected[name] = rmsnorm(projected[name], weights[f"{name}_norm.weight"], eps)
            if positions is not None:
                projected[name] = rope(projected[name], positions, theta)
        weights_of_heads.append(attention_weights(projected["q"], projected["k"], mask))
        values.append(projected["v"])
    dropped = drop(np.stack(np.broadcast_arrays(*weights_of_heads), -3))
    heads = [np.einsum("...ts,...sv->...tv", dropped[..., h, :, :], v) for h, v in enumerate(values)]
    return linear(
        np.concatenate(np.broadcast_arrays(*heads), -1),
        weights["output_proj.weight"],
        weights.get("output_proj.bias", 0.0),
    )


def causal_mask(T: int) -> np.ndarray:
    """True at (t, s) if s <= t."""
    return np.array([[s <= t for s in range(T)] for t in range(T)])
