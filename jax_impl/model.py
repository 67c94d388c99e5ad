"""The Transformer: blocks of attention and feed-forward on one residual stream."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jax_impl.attention import LayerCache, Rope, causal_mask, multihead_self_attention
from jax_impl.functional import gelu, relu, silu
from jax_impl.layers import Params, embedding, feed_forward, identity, layernorm, linear, rmsnorm, swiglu
from lm.config import ModelConfig
from lm.init import position_tables

Tables = tuple[Array, ...]
"""What `lm.init.position_tables` has for the positions at hand."""

NORMS: dict[str, Callable[..., Array]] = {"rmsnorm": rmsnorm, "layernorm": layernorm, "none": identity}
FEED_FORWARDS: dict[str, Callable[[Params, Array], Array]] = {
    "swiglu": swiglu,
    "silu": partial(feed_forward, activation=silu),
    "gelu": partial(feed_forward, activation=gelu),
    "relu": partial(feed_forward, activation=relu),
}


def norms(config: ModelConfig) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """What is done to the stream before a branch reads it, and after it is added: functions of a norm's gains and x."""
    norm = partial(NORMS[config.norm], eps=config.norm_eps)
    return (norm, identity) if config.norm_position == "pre" else (identity, norm)


def transformer_block(
    params: Params,
    x_BTD: Float[Array, "B T D"],
    config: ModelConfig,
    mask: Bool[Array, "*M T S"],
    tables: Rope | None = None,
    cache: LayerCache | None = None,
    slots_BT: Int[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T D"], LayerCache | None]:
    """Attention, then feed-forward, each added to the residual stream.

    The stream is normalised before each branch reads it, or after each is added: pre-norm or post-norm
    (Xiong et al., 2020, figure 1).
    """
    (before, after), ln1, ln2 = norms(config), params.get("ln1"), params.get("ln2")
    attended_BTD, cache = multihead_self_attention(
        params["attn"], before(ln1, x_BTD), config.num_heads, mask, tables, cache, slots_BT, config.norm_eps
    )
    x_BTD = after(ln1, x_BTD + attended_BTD)
    return after(ln2, x_BTD + FEED_FORWARDS[config.ffn](params["ffn"], before(ln2, x_BTD))), cache


def parallel_block(
    params: Params,
    x_BTD: Float[Array, "B T D"],
    config: ModelConfig,
    mask: Bool[Array, "*M T S"],
    tables: Rope | None = None,
    cache: LayerCache | None = None,
    slots_BT: Int[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T D"], LayerCache | None]:
    """Attention and feed-forward of one normalised stream, both added to it (Chowdhery et al., 2022, section 2)."""
    (before, after), ln1 = norms(config), params.get("ln1")
    normed_BTD = before(ln1, x_BTD)
    attended_BTD, cache = multihead_self_attention(
        params["attn"], normed_BTD, config.num_heads, mask, tables, cache, slots_BT, config.norm_eps
    )
    return after(ln1, x_BTD + attended_BTD + FEED_FORWARDS[config.ffn](params["ffn"], normed_BTD)), cache


BLOCKS = {"sequential": transformer_block, "parallel": parallel_block}


def embed(
    params: Params,
    token_ids_BT: Int[Array, "B T"],
    config: ModelConfig,
    compute_dtype: DTypeLike,
    tables: Tables,
) -> Float[Array, "B T D"]:
    """The residual stream before the first block."""
    x_BTD = embedding(params["token_embeddings"], token_ids_BT)
    if config.position == "learned":
        x_BTD = x_BTD + jnp.broadcast_to(embedding(params["position_embeddings"], tables[0]), x_BTD.shape)
    elif config.position == "sinusoidal":
        x_BTD = x_BTD + jnp.broadcast_to(tables[0], x_BTD.shape)
    return x_BTD.astype(compute_dtype)


def hidden_states(
    params: Params,
    x_BTD: Float[Array, "B T D"],
    config: ModelConfig,
    mask: Bool[Array, "*M T S"],
    tables: Tables,
    caches: list[LayerCache] | None = None,
    slots_BT: Int[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T D"], list[LayerCache | None]]:
    """The residual stream after the last block, normalised, and the caches, one a layer, as written.

    Args:
        tables: Of positions (T,) or (B, T).
    """
    # Every head of a sequence has its positions.
    rope: Any = tuple(jnp.expand_dims(t, -3) for t in tables) if config.position == "rope" else None
    block, (before, _), written = BLOCKS[config.block], norms(config), []
    for i, layer in enumerate(params["layers"]):
        x_BTD, cache = block(layer, x_BTD, config, mask, rope, caches[i] if caches else None, slots_BT)
        written.append(cache)
    return before(params.get("ln_final"), x_BTD), written


def logits(params: Params, x: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
    """The head, which tied models have in common with their embeddings (Press and Wolf, 2017)."""
    return linear(params["lm_head" if "lm_head" in params else "token_embeddings"], x)


def tables_of(
    config: ModelConfig, positions: Int[np.ndarray, "..."], length: int, dtype: DTypeLike
) -> Tables:
    """The tables of these positions, floating-point ones in a dtype; of learned positions there are `length`."""
    tables = position_tables(config, positions, length)
    return tuple(jnp.asarray(t, dtype if t.dtype.kind == "f" else None) for t in tables)


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
    T, param_dtype = token_ids_BT.shape[1], params["token_embeddings"]["weight"].dtype
    tables = tables_of(config, np.arange(T), config.context_length, param_dtype)
    x_BTD = embed(params, token_ids_BT, config, compute_dtype or param_dtype, tables)
    x_BTD, _ = hidden_states(params, x_BTD, config, causal_mask(T), tables)
    return logits(params, x_BTD)
