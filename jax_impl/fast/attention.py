"""Attention in blocks with a hand-written gradient, and attention of a single query over a cache."""

from functools import partial
from types import NotImplementedType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_impl.dtypes import at_least_float32
from jax_impl.fast.blocks import attend_in_blocks
from jax_impl.fast.cap import softcap, softcap_slope
from jax_impl.masks import Mask

QUERIES, KEYS = 256, 512
"""Most queries and keys in a block of scores. XLA multiplies smaller blocks at fewer operations a second."""


def scaled_dot_product_attention(
    Q: Float[Array, "*B T K"],
    K: Float[Array, "*B S K"],
    V: Float[Array, "*B S V"],
    mask: Bool[Array, "... T S"] | None = None,
    drop: Any = None,
    cap: float | None = None,
) -> Float[Array, "*B T V"] | NotImplementedType:
    """softmax(Q K^T / sqrt(d_k)) V, with the softmax's gradient by hand, and in blocks if there is more than one.

    From the formula's gradient XLA makes more passes over the attention weights. The form saves 2 to 3% of a training
    step's processor time and, with the other hand-written gradients, a quarter of the step's temporary memory
    (docs/benchmarks.md).
    """
    if _is_one_block(Q, K):
        if drop is not None:
            return NotImplemented
        if mask is not None:
            K, V = (jnp.where(jnp.broadcast_to(mask.any(-2)[..., None], x.shape), x, 0) for x in (K, V))
        return _attend(cap, Q, K, V, mask)
    if drop is not None and Q.ndim == 2:
        return NotImplemented
    if mask is not None:
        mask = mask[..., None, :, :]
    return attend_in_blocks((QUERIES, KEYS), Q[..., None, :, :], K, V, mask, drop, cap)[..., 0, :, :]


def grouped_query_attention(
    q_BHTK: Float[Array, "*B H T K"],
    k_BGSK: Float[Array, "*B G S K"],
    v_BGSK: Float[Array, "*B G S K"],
    mask: Mask | Bool[Array, "*M T S"] | None = None,
    drop: Any = None,
    cap: float | None = None,
) -> Float[Array, "*B H T K"] | NotImplementedType:
    """Attention in blocks over a long context, and of one query over several keys, which only a decode step has.

    In blocks, scores of one block at a time exist, and blocks that a `Mask` hides are skipped.

    For one query the formula copies keys and values, since those that no query sees may be NaN. A cache is finite: it
    holds zeros until it is written. For one text of tinystories, a layer's attention then takes a third of the time
    (docs/benchmarks.md).
    """
    *B, H, T, K = q_BHTK.shape
    G, S = k_BGSK.shape[-3:-1]
    q_BGRTK = q_BHTK.reshape(*B, G, H // G, T, K)
    if T == 1 and S > 1 and drop is None:
        mask = mask.pairs(S) if isinstance(mask, Mask) else mask
        if mask is not None:
            mask = jnp.broadcast_to(mask, (*mask.shape[:-2], H // G, S))
        weights = _softmax(_scores(q_BGRTK[..., 0, :], k_BGSK, mask, cap))
        return (weights.astype(v_BGSK.dtype) @ v_BGSK).reshape(q_BHTK.shape)
    if _is_one_block(q_BHTK, k_BGSK):
        return NotImplemented
    if mask is not None and not isinstance(mask, Mask):
        mask = mask[..., None, :, :]
    out_BGRTK = attend_in_blocks((QUERIES, KEYS), q_BGRTK, k_BGSK, v_BGSK, mask, drop, cap)
    return out_BGRTK.reshape(q_BHTK.shape)


def _is_one_block(Q: Array, K: Array) -> bool:
    """Return whether the scores fit one block: then all weights are kept, since nothing is faster."""
    return Q.shape[-2] <= QUERIES and K.shape[-2] <= KEYS


def _scores(Q: Array, K: Array, mask: Array | None, cap: float | None) -> Array:
    """Return the scores with their soft cap, -inf for keys that are hidden from the query."""
    Q, K = at_least_float32(Q), at_least_float32(K)
    scores = Q @ K.mT * Q.shape[-1] ** -0.5
    if cap is not None:
        scores = softcap(scores, cap)
    return scores if mask is None else jnp.where(jnp.broadcast_to(mask, scores.shape), scores, -jnp.inf)


def _softmax(scores: Array) -> Array:
    """Return the attention weights, zeros for a query that may attend to nothing."""
    largest = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    exp = jnp.exp(scores - jnp.where(largest == -jnp.inf, 0.0, largest))
    total = exp.sum(-1, keepdims=True)
    return exp / jnp.where(total == 0.0, 1.0, total)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(cap: float | None, Q: Array, K: Array, V: Array, mask: Array | None) -> Array:
    return _forward(cap, Q, K, V, mask)[0]


def _forward(
    cap: float | None, Q: Array, K: Array, V: Array, mask: Array | None
) -> tuple[Array, tuple[Array, ...]]:
    scores = _scores(Q, K, mask, cap)
    weights = _softmax(scores)
    # The gradient of capped scores needs the scores, from which it computes the weights again.
    return weights.astype(V.dtype) @ V, (Q, K, V, weights if cap is None else scores)


def _backward(cap: float | None, saved: tuple[Array, ...], g: Array) -> tuple[Array, Array, Array, None]:
    Q, K, V, kept = saved
    # Without the barrier XLA would find the weights in the forward pass, and keep them, too.
    weights = kept if cap is None else _softmax(jax.lax.optimization_barrier(kept))
    d_weights = at_least_float32(g @ V.mT)
    mean = (weights * d_weights).sum(-1, keepdims=True)
    d_scores = weights * (d_weights - mean)
    if cap is not None:
        d_scores = jnp.where(kept == -jnp.inf, 0.0, d_scores * softcap_slope(kept, cap))
    d_scores, scale = d_scores.astype(Q.dtype), Q.shape[-1] ** -0.5
    return d_scores @ K * scale, d_scores.mT @ Q * scale, weights.astype(V.dtype).mT @ g, None


_attend.defvjp(_forward, _backward)
