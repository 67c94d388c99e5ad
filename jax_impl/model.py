"""The Transformer: blocks of attention and feed-forward on one residual stream, and the language model."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jax_impl.attention import Context, LayerCache, multihead_self_attention
from jax_impl.dtypes import Params
from jax_impl.functional import DropoutKey, dropout, gelu, relu, silu
from jax_impl.layers import embedding, feed_forward, identity, layernorm, linear, rmsnorm, swiglu
from jax_impl.masks import causal_mask, document_mask
from jax_impl.sharding import constrain
from lm.config import ModelConfig
from lm.init import position_tables

Tables = tuple[Array | np.ndarray, ...]
"""`lm.init.position_tables` of the positions."""

NORMS: dict[str, Callable[..., Array]] = {"rmsnorm": rmsnorm, "layernorm": layernorm, "none": identity}
FEED_FORWARDS: dict[str, Callable[[Params, Array], Array]] = {
    "swiglu": swiglu,
    "silu": partial(feed_forward, activation=silu),
    "gelu": partial(feed_forward, activation=gelu),
    "relu": partial(feed_forward, activation=relu),
}


def make_norm(config: ModelConfig) -> Callable[[Params | None, Array], Array]:
    """Return the norm of the residual stream as a function of its weights and the stream."""
    return partial(NORMS[config.norm], eps=config.norm_eps)


def pre_norm(params: Params | None, x_BTD: Float[Array, "B T D"], config: ModelConfig) -> Array:
    """Normalise what a branch reads, in a pre-norm model."""
    return make_norm(config)(params, x_BTD) if config.norm_position == "pre" else x_BTD


def post_norm(params: Params | None, x_BTD: Float[Array, "B T D"], config: ModelConfig) -> Array:
    """Normalise the stream after a branch is added, in a post-norm model."""
    return make_norm(config)(params, x_BTD) if config.norm_position == "post" else x_BTD


def transformer_block(
    params: Params,
    x_BTD: Float[Array, "B T D"],
    config: ModelConfig,
    context: Context,
    cache: LayerCache | None = None,
) -> tuple[Float[Array, "B T D"], LayerCache | None]:
    """Attention, then feed-forward, each added to the residual stream.

    The stream is normalised before each branch reads it, or after each branch is added: pre-norm or post-norm
    (Xiong et al., 2020, figure 1).
    """
    ln1, ln2, c = params.get("ln1"), params.get("ln2"), config
    drop = partial(dropout, rate=c.residual_dropout, key=context.key)
    attended_BTD, cache = multihead_self_attention(
        params["attn"], pre_norm(ln1, x_BTD, c), context, c.num_heads, cache, c.norm_eps, c.attention_dropout
    )
    x_BTD = post_norm(ln1, x_BTD + drop(attended_BTD, place="attn"), c)
    fed_BTD = FEED_FORWARDS[c.ffn](params["ffn"], pre_norm(ln2, x_BTD, c))
    return post_norm(ln2, x_BTD + drop(fed_BTD, place="ffn"), c), cache


def parallel_block(
    params: Params,
    x_BTD: Float[Array, "B T D"],
    config: ModelConfig,
    context: Context,
    cache: LayerCache | None = None,
) -> tuple[Float[Array, "B T D"], LayerCache | None]:
    """Attention and feed-forward of one normalised stream, both added to it (Chowdhery et al., 2022, section 2)."""
    ln1, c = params.get("ln1"), config
    drop = partial(dropout, rate=c.residual_dropout, key=context.key)
    normed_BTD = pre_norm(ln1, x_BTD, c)
    attended_BTD, cache = multihead_self_attention(
        params["attn"], normed_BTD, context, c.num_heads, cache, c.norm_eps, c.attention_dropout
    )
    fed_BTD = FEED_FORWARDS[c.ffn](params["ffn"], normed_BTD)
    return post_norm(ln1, x_BTD + drop(attended_BTD, place="attn") + drop(fed_BTD, place="ffn"), c), cache


BLOCKS = {"sequential": transformer_block, "parallel": parallel_block}


def embed(
    params: Params,
    token_ids_BT: Int[Array, "B T"],
    config: ModelConfig,
    compute_dtype: DTypeLike,
    tables: Tables,
    key: DropoutKey | None = None,
) -> Float[Array, "B T D"]:
    """Return the residual stream before the first block.

    Args:
        tables: `lm.init.position_tables` of positions (T,) or (B, T).
    """
    x_BTD = embedding(params["token_embeddings"], token_ids_BT)
    if config.position == "learned":
        added = embedding(params["position_embeddings"], jnp.asarray(tables[0]))
        x_BTD = x_BTD + jnp.broadcast_to(added, x_BTD.shape)
    elif config.position == "sinusoidal":
        x_BTD = x_BTD + jnp.broadcast_to(tables[0], x_BTD.shape)
    return dropout(x_BTD.astype(compute_dtype), config.embedding_dropout, key, "embedding")


def hidden_states(
    params: Params,
    x_BTD: Float[Array, "B T D"],
    config: ModelConfig,
    context: Context,
    caches: list[LayerCache] | None = None,
    rows: Sharding | None = None,
) -> tuple[Float[Array, "B T D"], list[LayerCache | None]]:
    """Return the residual stream after the last block, normalised, and each layer's cache as written.

    Args:
        rows: How the batch rows are sharded. With this hint XLA gathers the weights to the rows; without it, XLA may
            gather all rows to every weight shard.
    """
    # Under jit a block is traced once for all layers.
    block: Any = jax.jit(partial(BLOCKS[config.block], config=config))
    if config.remat == "block":
        # The backward pass keeps only each block's input, and computes the rest again (Chen et al., 2016).
        block = jax.checkpoint(block)
    x_BTD, written = constrain(x_BTD, rows), []
    for i, layer in enumerate(params["layers"]):
        cache = caches[i] if caches else None
        x_BTD, cache = block(layer, x_BTD, context=context.within(f"layers.{i}"), cache=cache)
        x_BTD = constrain(x_BTD, rows)
        written.append(cache)
    return pre_norm(params.get("ln_final"), x_BTD, config), written


def logits(params: Params, x: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
    """Apply the head. Tied models share the head's weight with their embeddings (Press and Wolf, 2017)."""
    return linear(params["lm_head" if "lm_head" in params else "token_embeddings"], x)


def transformer_lm(
    params: Params,
    token_ids_BT: Int[Array, "B T"],
    config: ModelConfig,
    compute_dtype: DTypeLike | None = None,
    key: DropoutKey | None = None,
    rows: Sharding | None = None,
    starts_BT: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T V"]:
    """Token ids to logits of the next token.

    With `starts_BT`, the index at which each token's document starts, a token attends to its own document alone, in
    which positions count from 0.

    Args:
        compute_dtype: Type of the activations; by default the weights' own.
        key: What to drop; by default nothing.
        rows: As in `hidden_states`.
    """
    T, param_dtype = token_ids_BT.shape[1], params["token_embeddings"]["weight"].dtype
    tables: Tables = position_tables(config, np.arange(T), config.context_length, param_dtype)
    rotates, mask = config.position == "rope", causal_mask(T)
    if starts_BT is not None:
        starts_BT = starts_BT.astype(int)  # the type of jnp.arange
        place_BT = jnp.arange(T)[None, :] - starts_BT
        # Every head of a sequence has the sequence's positions.
        place = place_BT[:, None] if rotates else place_BT
        tables, mask = tuple(jnp.asarray(table)[place] for table in tables), document_mask(starts_BT)
    x_BTD = embed(params, token_ids_BT, config, compute_dtype or param_dtype, tables, key)
    rope: Any = tables if rotates else None
    context = Context(mask, rope, key=key)
    return logits(params, hidden_states(params, x_BTD, config, context, rows=rows)[0])
