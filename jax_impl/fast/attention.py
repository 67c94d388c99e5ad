"""Attention with a gradient by hand, and attention of a single query."""

from collections.abc import Callable
from types import NotImplementedType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_impl.dtypes import at_least_float32


def scaled_dot_product_attention(
    Q: Float[Array, "*B T K"],
    K: Float[Array, "*B S K"],
    V: Float[Array, "*B S V"],
    mask: Bool[Array, "... T S"] | None = None,
    drop: Callable[[Array], Array] | None = None,
) -> Float[Array, "*B T V"] | NotImplementedType:
    """softmax(Q K^T / sqrt(d_k)) V, with the softmax's own gradient: weights * (d_weights - mean).

    From the formula XLA makes more passes over the weights. Measured by `bench layers`.
    """
    if drop is not None:
        return NotImplemented
    if mask is not None:
        is_read = mask.any(-2)[..., None]
        K, V = (jnp.where(jnp.broadcast_to(is_read, x.shape), x, 0) for x in (K, V))
    return _attend(Q, K, V, mask)


def single_query_attention(
    q_BHTK: Float[Array, "*B H T K"],
    k_BGSK: Float[Array, "*B G S K"],
    v_BGSK: Float[Array, "*B G S K"],
    mask: Bool[Array, "*M T S"] | None = None,
    drop: Callable[[Array], Array] | None = None,
) -> Float[Array, "*B H T K"] | NotImplementedType:
    """Attention of one query a sequence, as in a decode step, which copies no keys and values to hide NaNs.

    Keys and values must be finite: those of a cache are zeros until they are written. Without the copy a decode step
    reads the cache once. Measured by `bench generate`.
    """
    *B, H, T, K = q_BHTK.shape
    if T != 1 or drop is not None:
        return NotImplemented
    G = k_BGSK.shape[-3]
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*mask.shape[:-2], H // G, mask.shape[-1]))
    return _attend(q_BHTK.reshape(*B, G, H // G, K), k_BGSK, v_BGSK, mask).reshape(q_BHTK.shape)


def _weigh(Q: Array, K: Array, mask: Array | None) -> Array:
    """The attention weights: zeros for a query that may attend to nothing."""
    Q, K = at_least_float32(Q), at_least_float32(K)
    scores = Q @ K.mT * Q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(jnp.broadcast_to(mask, scores.shape), scores, -jnp.inf)
    largest = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    exp = jnp.exp(scores - jnp.where(largest == -jnp.inf, 0.0, largest))
    total = exp.sum(-1, keepdims=True)
    return exp / jnp.where(total == 0.0, 1.0, total)


@jax.custom_vjp
def _attend(Q: Array, K: Array, V: Array, mask: Array | None) -> Array:
    return _forward(Q, K, V, mask)[0]


def _forward(Q: Array, K: Array, V: Array, mask: Array | None) -> tuple[Array, tuple[Any, ...]]:
    weights = _weigh(Q, K, mask)
    return weights.astype(V.dtype) @ V, (Q, K, V, weights)


def _backward(saved: tuple[Any, ...], g: Array) -> tuple[Array, Array, Array, None]:
    Q, K, V, weights = saved
    d_weights = at_least_float32(g @ V.mT)
    mean = (weights * d_weights).sum(-1, keepdims=True)
    d_scores, scale = (weights * (d_weights - mean)).astype(Q.dtype), Q.shape[-1] ** -0.5
    return d_scores @ K * scale, d_scores.mT @ Q * scale, weights.astype(V.dtype).mT @ g, None


_attend.defvjp(_forward, _backward)
