"""The Transformer: blocks of attention and feed-forward on one residual stream."""

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jax_impl.attention import LayerCache, Rope, causal_mask, multihead_self_attention
from jax_impl.layers import Params, embedding, linear, rmsnorm, swiglu
from lm.config import ModelConfig
from lm.init import rope_tables


def transformer_block(
    params: Params,
    x_BTD: Float[Array, "B T D"],
    config: ModelConfig,
    mask: Bool[Array, "*M T S"],
    tables: Rope,
    cache: LayerCache | None = None,
    slots_BT: Int[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T D"], LayerCache | None]:
    """x + attention(norm(x)), then x + ffn(norm(x)): pre-norm (Xiong et al., 2020, figure 1b)."""
    attended_BTD, cache = multihead_self_attention(
        params["attn"], rmsnorm(params["ln1"], x_BTD), config.num_heads, mask, tables, cache, slots_BT
    )
    x_BTD = x_BTD + attended_BTD
    return x_BTD + swiglu(params["ffn"], rmsnorm(params["ln2"], x_BTD)), cache


def hidden_states(
    params: Params,
    token_ids_BT: Int[Array, "B T"],
    config: ModelConfig,
    compute_dtype: DTypeLike,
    mask: Bool[Array, "*M T S"],
    tables: Rope,
    caches: list[LayerCache] | None = None,
    slots_BT: Int[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T D"], list[LayerCache | None]]:
    """The residual stream after the last block, normalised, and the caches, one a layer, as written."""
    x_BTD = embedding(params["token_embeddings"], token_ids_BT).astype(compute_dtype)
    written = []
    for i, layer in enumerate(params["layers"]):
        x_BTD, cache = transformer_block(
            layer, x_BTD, config, mask, tables, caches[i] if caches else None, slots_BT
        )
        written.append(cache)
    return rmsnorm(params["ln_final"], x_BTD), written


def transformer_lm(
    params: Params,
    token_ids_BT: Int[Array, "B T"],
    config: ModelConfig,
    compute_dtype: DTypeLike | None = None,
) -> Float[Array, "B T V"]:
    """Token ids to logits of the next token.

    Args:
        compute_dtype: Type of the activations; the weights' own if not given.
    """
    T = token_ids_BT.shape[1]
    param_dtype = params["lm_head"]["weight"].dtype
    cos_TP, sin_TP = rope_tables(config.rope_theta, config.d_head, np.arange(T))
    tables = jnp.asarray(cos_TP, param_dtype), jnp.asarray(sin_TP, param_dtype)
    x_BTD, _ = hidden_states(
        params, token_ids_BT, config, compute_dtype or param_dtype, causal_mask(T), tables
    )
    return linear(params["lm_head"], x_BTD)
