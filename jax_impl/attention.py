"""Rotary positions, scaled dot-product attention, and multi-head causal self-attention."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jax_impl.functional import Draw, at_least_float32, dropout
from jax_impl.layers import Params, linear, rmsnorm

Rope = tuple[Float[Array, "... P"], Float[Array, "... P"]]
"""Cosines and sines of the positions at hand (`lm.init.rope_tables`), P = d_head / 2."""


def rope(x_TK: Float[Array, "*T K"], tables: Rope) -> Float[Array, "*T K"]:
    """Rotate the pairs (x[2p], x[2p + 1]) by their position's angle (Su et al., 2021, eq. 34).

    The tables' leading dimensions broadcast against those of x.
    """
    even_TP, odd_TP = jnp.unstack(at_least_float32(x_TK).reshape(*x_TK.shape[:-1], -1, 2), axis=-1)
    cos_TP, sin_TP = (jnp.broadcast_to(table, even_TP.shape) for table in tables)
    rotated = jnp.stack((even_TP * cos_TP - odd_TP * sin_TP, even_TP * sin_TP + odd_TP * cos_TP), axis=-1)
    return rotated.reshape(x_TK.shape).astype(x_TK.dtype)


def scaled_dot_product_attention(
    Q: Float[Array, "*B T K"],
    K: Float[Array, "*B S K"],
    V: Float[Array, "*B S V"],
    mask: Bool[Array, "... T S"] | None = None,
    drop: Callable[[Array], Array] | None = None,
) -> Float[Array, "*B T V"]:
    """softmax(Q K^T / sqrt(d_k)) V (Vaswani et al., 2017, eq. 1).

    Args:
        mask: True where the query may attend to the key; broadcasts against (*B, T, S). A query that may
            attend to nothing yields zeros with zero gradients; a key and value that no query may attend to
            are not read, whatever they hold, NaN included.
        drop: What is done to the weights in training.
    """
    if mask is not None:
        is_read = mask.any(-2)[..., None]
        K, V = (jnp.where(jnp.broadcast_to(is_read, x.shape), x, 0) for x in (K, V))
    return attend(Q, K, V, mask, drop)


def attend(
    Q: Float[Array, "*B T K"],
    K: Float[Array, "*B S K"],
    V: Float[Array, "*B S V"],
    mask: Bool[Array, "... T S"] | None = None,
    drop: Callable[[Array], Array] | None = None,
) -> Float[Array, "*B T V"]:
    """`scaled_dot_product_attention` of finite keys and values, which need not be copied to hide them.

    Those of a cache are zeros until they are written.
    """
    if drop is None:
        return _attend(Q, K, V, mask)
    return drop(_weights(Q, K, mask)).astype(V.dtype) @ V


def _weights(Q: Array, K: Array, mask: Array | None) -> Array:
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
    return _attend_and_keep(Q, K, V, mask)[0]


def _attend_and_keep(Q: Array, K: Array, V: Array, mask: Array | None) -> tuple[Array, tuple[Any, ...]]:
    weights = _weights(Q, K, mask)
    return weights.astype(V.dtype) @ V, (Q, K, V, weights)


def _attend_gradient(kept: tuple[Any, ...], g: Array) -> tuple[Array, Array, Array, None]:
    """By the softmax's own gradient, weights * (d_weights - mean): from the formula above XLA makes more passes."""
    Q, K, V, weights = kept
    d_weights = at_least_float32(g @ V.mT)
    mean = (weights * d_weights).sum(-1, keepdims=True)
    d_scores, scale = (weights * (d_weights - mean)).astype(Q.dtype), Q.shape[-1] ** -0.5
    return d_scores @ K * scale, d_scores.mT @ Q * scale, weights.astype(V.dtype).mT @ g, None


_attend.defvjp(_attend_and_keep, _attend_gradient)


def grouped_query_attention(
    q_BHTK: Float[Array, "*B H T K"],
    k_BGSK: Float[Array, "*B G S K"],
    v_BGSK: Float[Array, "*B G S K"],
    mask: Bool[Array, "*M T S"],
    drop: Callable[[Array], Array] | None = None,
    attention: Callable[..., Array] = scaled_dot_product_attention,
) -> Float[Array, "*B H T K"]:
    """Attention whose key head g serves the query heads g H/G .. (g + 1) H/G (Ainslie et al., 2023).

    The queries that share a key are rows of one matrix product, so that no key is repeated in memory.
    """
    *B, H, T, K = q_BHTK.shape
    *M, _, S = mask.shape
    G = k_BGSK.shape[-3]
    rows = q_BHTK.reshape(*B, G, -1, K)
    mask = jnp.broadcast_to(mask[..., None, :, :], (*M, H // G, T, S)).reshape(*M, -1, S)
    out = attention(rows, k_BGSK, v_BGSK, mask, drop)
    return out.reshape(q_BHTK.shape)


class LayerCache(NamedTuple):
    """Keys and values of one layer, of num_kv_heads heads, in S slots, of which position t takes slot t mod S."""

    k_BHKS: Float[Array, "B H K S"]
    """Transposed, as the scores of a single query are computed from them."""
    v_BHSK: Float[Array, "B H S K"]

    def write(self, k_BHTK: Array, v_BHTK: Array, slots_BT: Int[Array, "B T"]) -> "LayerCache":
        """The cache with the new keys and values in their slots."""
        B, H = self.v_BHSK.shape[:2]
        # By heads too: of one text XLA would else write the whole cache again.
        b, h, s = jnp.arange(B)[:, None, None], jnp.arange(H)[None, :, None], slots_BT[:, None]
        return LayerCache(self.k_BHKS.at[b, h, :, s].set(k_BHTK), self.v_BHSK.at[b, h, s].set(v_BHTK))


def multihead_self_attention(
    params: Params,
    x_BTD: Float[Array, "*B T D"],
    num_heads: int,
    mask: Bool[Array, "*M T S"],
    tables: Rope | None = None,
    cache: LayerCache | None = None,
    slots_BT: Int[Array, "B T"] | None = None,
    qk_norm_eps: float = 1e-5,
    attention_dropout: float = 0.0,
    draw: Draw | None = None,
) -> tuple[Float[Array, "*B T D"], LayerCache | None]:
    """Attention of num_heads heads over one sequence, with RoPE where tables are given.

    Args:
        qk_norm_eps: Epsilon of the RMSNorm over each head's queries and keys, before RoPE (Dehghani et al., 2023,
            section 2), which is there if its gains are.
        attention_dropout: Share of the attention weights that is dropped where a draw is given.

    Returns:
        The output, and the cache with this call's keys and values where one was given.
    """
    d_head = x_BTD.shape[-1] // num_heads
    q_BHTK, k_BHTK, v_BHTK = (
        linear(params[name], x_BTD).reshape(*x_BTD.shape[:-1], -1, d_head).swapaxes(-2, -3)
        for name in ("q_proj", "k_proj", "v_proj")
    )
    if "q_norm" in params:
        q_BHTK, k_BHTK = (
            rmsnorm(params[name], x, qk_norm_eps) for name, x in (("q_norm", q_BHTK), ("k_norm", k_BHTK))
        )
    if tables is not None:
        q_BHTK, k_BHTK = rope(q_BHTK, tables), rope(k_BHTK, tables)
    if cache is not None and slots_BT is not None:
        cache = cache.write(k_BHTK, v_BHTK, slots_BT)
        S = mask.shape[-1]
        k_BHTK, v_BHTK = cache.k_BHKS[..., :S].mT, cache.v_BHSK[:, :, :S]
    dropping = draw is not None and attention_dropout > 0.0
    drop = partial(dropout, rate=attention_dropout, draw=draw, place="weights") if dropping else None
    decodes = cache is not None and x_BTD.shape[-2] == 1
    attention = attend if decodes else scaled_dot_product_attention
    out_BHTK = grouped_query_attention(q_BHTK, k_BHTK, v_BHTK, mask, drop, attention)
    return linear(params["output_proj"], out_BHTK.swapaxes(-2, -3).reshape(x_BTD.shape)), cache


def padding_mask(num_tokens_B: Int[Array, " B"], T: int) -> Bool[Array, "B 1 T T"]:
    """True where key s is one of the sequence's tokens, not padding: s < num_tokens."""
    valid_BT = jnp.arange(T, dtype=num_tokens_B.dtype)[None, :] < num_tokens_B[:, None]
    return jnp.broadcast_to(valid_BT[:, None, None, :], (len(num_tokens_B), 1, T, T))


def prefix_mask(num_tokens_B: Int[Array, " B"], P: int, T: int) -> Bool[Array, "B 1 S S"]:
    """Of a prefix padded to P places, and T tokens behind it: all see the prefix, and tokens those up to themselves."""
    place_1S = jnp.arange(P + T, dtype=num_tokens_B.dtype)[None, :]
    valid_BS = (place_1S < num_tokens_B[:, None]) | (place_1S >= P)
    return valid_BS[:, None, None, :] & (causal_mask(P + T) | (place_1S < P))[None, None]


def causal_mask(T: int) -> Bool[Array, "T T"]:
    """True where key s may be seen by query t: s <= t."""
    return jnp.tril(jnp.ones((T, T), dtype=bool))
