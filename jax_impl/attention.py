"""Rotary positions, scaled dot-product attention, and multi-head self-attention with and without a cache."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jax_impl import fast
from jax_impl.dtypes import Params, at_least_float32
from jax_impl.functional import Dropout, DropoutKey, softcap
from jax_impl.layers import linear, rmsnorm
from jax_impl.masks import Mask

Rope = tuple[Float[Array | np.ndarray, "... P"], Float[Array | np.ndarray, "... P"]]
"""Cosines and sines of the positions (`lm.init.rope_tables`), P = d_head / 2."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Context:
    """What all blocks with one type of attention share in a forward pass."""

    mask: Mask | Bool[Array, "*M T S"] | None
    """The keys that a query may attend to, or True if it may; without a mask every query attends to every key."""
    rope: Rope | None = None
    """RoPE's tables, which broadcast against (B, H, T, P); None if the model does not rotate."""
    slots_BT: Int[Array, "B T"] | None = None
    """In a decode step: the slots of the cache that the new keys take."""
    kept_BS: Int[Array, "B S"] | None = None
    """In a pass over prompts: the places of the new keys that the slots of a new cache keep."""
    key: DropoutKey | None = None
    """What training drops; None outside training."""

    def within(self, place: str) -> "Context":
        """Return the context of a place in the model, such as a layer: dropout depends on the place."""
        return replace(self, key=self.key and self.key.within(place))


class LayerCache(NamedTuple):
    """Keys and values of one layer, of num_kv_heads heads, in S slots (`lm.text.rings`)."""

    k_BHKS: Float[Array, "B H K S"]
    """Transposed, as the scores Q K^T need them."""
    v_BHSK: Float[Array, "B H S K"]

    def write(self, k_BHTK: Array, v_BHTK: Array, slots_BT: Int[Array, "B T"]) -> "LayerCache":
        """Return the cache with the new keys and values in their slots."""
        B, H = self.v_BHSK.shape[:2]
        b, h, s = jnp.arange(B)[:, None, None], jnp.arange(H)[None, :, None], slots_BT[:, None]
        return LayerCache(self.k_BHKS.at[b, h, :, s].set(k_BHTK), self.v_BHSK.at[b, h, s].set(v_BHTK))

    @classmethod
    def fill(cls, k_BHTK: Array, v_BHTK: Array, kept_BS: Int[Array, "B S"]) -> "LayerCache":
        """Return a new cache, whose slots keep the keys and values of these places."""
        B, H = v_BHTK.shape[:2]
        b, h, s = jnp.arange(B)[:, None, None], jnp.arange(H)[None, :, None], kept_BS[:, None]
        return cls(k_BHTK[b, h, s].mT, v_BHTK[b, h, s])


def rope(x_TK: Float[Array, "*T K"], tables: Rope) -> Float[Array, "*T K"]:
    """Rotate the pairs (x[2p], x[2p + 1]) by their position's angle (Su et al., 2021, eq. 34).

    The tables' leading dimensions broadcast against those of x.
    """
    even_TP, odd_TP = jnp.unstack(at_least_float32(x_TK).reshape(*x_TK.shape[:-1], -1, 2), axis=-1)
    cos_TP, sin_TP = (jnp.broadcast_to(table, even_TP.shape) for table in tables)
    rotated = jnp.stack((even_TP * cos_TP - odd_TP * sin_TP, even_TP * sin_TP + odd_TP * cos_TP), axis=-1)
    return rotated.reshape(x_TK.shape).astype(x_TK.dtype)


@fast.path(fast.scaled_dot_product_attention)
def scaled_dot_product_attention(
    Q: Float[Array, "*B T K"],
    K: Float[Array, "*B S K"],
    V: Float[Array, "*B S V"],
    mask: Bool[Array, "... T S"] | None = None,
    drop: Dropout | None = None,
    cap: float | None = None,
) -> Float[Array, "*B T V"]:
    """softmax(Q K^T / sqrt(d_k)) V (Vaswani et al., 2017, eq. 1).

    Args:
        mask: True if the query may attend to the key; broadcasts against (*B, T, S). A query that may
            attend to nothing yields zeros with zero gradients. A key and value that no query may attend to
            are not read, whatever they hold, NaN included.
        drop: What training does to the attention weights.
        cap: Soft cap of the scores; by default none.
    """
    if mask is not None:
        is_read = mask.any(-2)[..., None]
        K, V = (jnp.where(jnp.broadcast_to(is_read, x.shape), x, 0) for x in (K, V))
    scores = at_least_float32(Q) @ at_least_float32(K).mT * Q.shape[-1] ** -0.5
    if cap is not None:
        scores = softcap(scores, cap)
    if mask is not None:
        scores = jnp.where(jnp.broadcast_to(mask, scores.shape), scores, -jnp.inf)
    largest = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    exp = jnp.exp(scores - jnp.where(largest == -jnp.inf, 0.0, largest))
    total = exp.sum(-1, keepdims=True)
    weights = exp / jnp.where(total == 0.0, 1.0, total)
    if drop is not None:
        weights = drop(weights)
    return weights.astype(V.dtype) @ V


@fast.path(fast.grouped_query_attention)
def grouped_query_attention(
    q_BHTK: Float[Array, "*B H T K"],
    k_BGSK: Float[Array, "*B G S K"],
    v_BGSK: Float[Array, "*B G S K"],
    mask: Mask | Bool[Array, "*M T S"] | None,
    drop: Dropout | None = None,
    cap: float | None = None,
) -> Float[Array, "*B H T K"]:
    """Attention whose key head g serves the query heads g H/G .. (g + 1) H/G (Ainslie et al., 2023).

    The queries that share a key are rows of one matrix product, so that no key is repeated in memory.
    """
    *B, H, T, K = q_BHTK.shape
    G, S = k_BGSK.shape[-3:-1]
    rows = q_BHTK.reshape(*B, G, -1, K)
    if isinstance(mask, Mask):
        mask = mask.pairs(S)
    if mask is not None:
        M = mask.shape[:-2]
        mask = jnp.broadcast_to(mask[..., None, :, :], (*M, H // G, T, S)).reshape(*M, -1, S)
    return scaled_dot_product_attention(rows, k_BGSK, v_BGSK, mask, drop, cap).reshape(q_BHTK.shape)


def multihead_self_attention(
    params: Params,
    x_BTD: Float[Array, "*B T D"],
    context: Context,
    num_heads: int,
    cache: LayerCache | None = None,
    *,
    qk_norm_eps: float = 1e-5,
    norm_offset: float = 0.0,
    query_factor: float = 1.0,
    score_softcap: float | None = None,
    attention_dropout: float = 0.0,
) -> tuple[Float[Array, "*B T D"], LayerCache | None]:
    """Attention of num_heads heads over one sequence, with RoPE if the context has its tables.

    A decode step writes the new keys and values into their slots of the cache, and reads as many of the first slots as
    the mask has keys. A pass over prompts reads the new keys and values, and makes a cache of them.

    Args:
        qk_norm_eps: Epsilon of the RMSNorm over queries and keys, before RoPE (Dehghani et al., 2023, section 2).
            Queries and keys are normalised if the parameters have gains for it: over each head by itself if there are
            d_head gains, or over all heads at once if there is a gain for each of their features.
        norm_offset: What the norms of queries and keys add to their gains.
        query_factor: What queries are multiplied by after RoPE.
        score_softcap: Soft cap of the scores; by default none.
        attention_dropout: Share of the attention weights that training drops.

    Returns:
        The output, and the cache that was written or made, if any.
    """
    lead, d_head = x_BTD.shape[:-1], params["q_proj"]["weight"].shape[0] // num_heads

    def heads(name: str) -> Float[Array, "*B H T K"]:
        """Project, normalise if there are gains, and split into heads."""
        y = linear(params[f"{name}_proj"], x_BTD)
        if f"{name}_norm" in params:
            gains = params[f"{name}_norm"]
            y = rmsnorm(gains, y.reshape(*lead, -1, gains["weight"].size), qk_norm_eps, norm_offset)
        return y.reshape(*lead, -1, d_head).swapaxes(-2, -3)

    q_BHTK, k_BHTK, v_BHTK = heads("q"), heads("k"), heads("v")
    if context.rope is not None:
        q_BHTK, k_BHTK = rope(q_BHTK, context.rope), rope(k_BHTK, context.rope)
    if query_factor != 1.0:
        q_BHTK = (at_least_float32(q_BHTK) * query_factor).astype(q_BHTK.dtype)
    if context.kept_BS is not None:
        cache = LayerCache.fill(k_BHTK, v_BHTK, context.kept_BS)
    elif cache is not None:
        assert isinstance(context.mask, jax.Array)
        assert context.slots_BT is not None
        cache = cache.write(k_BHTK, v_BHTK, context.slots_BT)
        S = context.mask.shape[-1]
        k_BHTK, v_BHTK = cache.k_BHKS[..., :S].mT, cache.v_BHSK[:, :, :S]
    drop = None
    if context.key is not None and attention_dropout > 0.0:
        drop = Dropout(attention_dropout, context.key, "weights")
    out_BHTK = grouped_query_attention(q_BHTK, k_BHTK, v_BHTK, context.mask, drop, score_softcap)
    return linear(params["output_proj"], out_BHTK.swapaxes(-2, -3).reshape(*lead, -1)), cache
