"""The Transformer: blocks of attention and feed-forward on one residual stream, and the language model."""

from collections.abc import Callable, Mapping
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
from jax_impl.functional import DropoutKey, dropout, gelu, gelu_tanh, relu, relu2, silu, softcap
from jax_impl.layers import embedding, feed_forward, geglu, identity, layernorm, linear, rmsnorm, swiglu
from jax_impl.masks import causal_mask, document_mask
from jax_impl.sharding import constrain
from lm.config import LayerType, ModelConfig
from lm.init import position_tables

Tables = Mapping[LayerType, tuple[Array | np.ndarray, ...]]
"""`lm.init.position_tables` of the positions, for each type of layers."""

NORMS: dict[str, Callable[..., Array]] = {"rmsnorm": rmsnorm, "layernorm": layernorm, "none": identity}
FEED_FORWARDS: dict[str, Callable[[Params, Array], Array]] = {
    "swiglu": swiglu,
    "geglu_tanh": geglu,
    "silu": partial(feed_forward, activation=silu),
    "gelu": partial(feed_forward, activation=gelu),
    "gelu_tanh": partial(feed_forward, activation=gelu_tanh),
    "relu": partial(feed_forward, activation=relu),
    "relu2": partial(feed_forward, activation=relu2),
}


def make_norm(config: ModelConfig) -> Callable[[Params | None, Array], Array]:
    """Return the norm of the residual stream as a function of its weights and the stream."""
    return partial(NORMS[config.norm], eps=config.norm_eps, offset=config.norm_offset)


def make_attention(config: ModelConfig) -> Callable[..., tuple[Array, LayerCache | None]]:
    """Return a block's attention as a function of its weights, what it reads, the context and a cache."""
    return partial(
        multihead_self_attention,
        num_heads=config.num_heads,
        qk_norm_eps=config.norm_eps,
        norm_offset=config.norm_offset,
        query_factor=config.query_factor,
        score_softcap=config.score_softcap,
        attention_dropout=config.attention_dropout,
    )


def pre_norm(params: Params | None, x_BTD: Float[Array, "B T D"], config: ModelConfig) -> Array:
    """Normalise what a branch reads, in a model with pre-norm or sandwich norms."""
    return make_norm(config)(params, x_BTD) if config.norm_position in ("pre", "sandwich") else x_BTD


def branch_norm(
    params: Params | None, after: Params | None, x_BTD: Float[Array, "B T D"], config: ModelConfig
) -> Array:
    """Normalise a branch's output, by its only norm or by the second one of a sandwich."""
    match config.norm_position:
        case "branch":
            return make_norm(config)(params, x_BTD)
        case "sandwich":
            return make_norm(config)(after, x_BTD)
    return x_BTD


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
    (Xiong et al., 2020, figure 1). Or each branch's output is normalised (OLMo Team, 2025, section 3.1), or both what a
    branch reads and its output: a sandwich (Gemma Team, 2024, section 2).
    """
    ln1, ln2, c = params.get("ln1"), params.get("ln2"), config
    ln1_after, ln2_after = params.get("ln1_after"), params.get("ln2_after")
    drop = partial(dropout, rate=c.residual_dropout, key=context.key)
    attended_BTD, cache = make_attention(c)(
        params["attn"], pre_norm(ln1, x_BTD, c), context=context, cache=cache
    )
    branch_BTD = branch_norm(ln1, ln1_after, drop(attended_BTD, place="attn"), c)
    x_BTD = post_norm(ln1, x_BTD + branch_BTD, c)
    fed_BTD = FEED_FORWARDS[c.ffn](params["ffn"], pre_norm(ln2, x_BTD, c))
    branch_BTD = branch_norm(ln2, ln2_after, drop(fed_BTD, place="ffn"), c)
    return post_norm(ln2, x_BTD + branch_BTD, c), cache


def parallel_block(
    params: Params,
    x_BTD: Float[Array, "B T D"],
    config: ModelConfig,
    context: Context,
    cache: LayerCache | None = None,
) -> tuple[Float[Array, "B T D"], LayerCache | None]:
    """Attention and feed-forward of one normalised stream, both added to it (Chowdhery et al., 2022, section 2).

    Norms of branches normalise the sum of both.
    """
    ln1, ln1_after, c = params.get("ln1"), params.get("ln1_after"), config
    drop = partial(dropout, rate=c.residual_dropout, key=context.key)
    normed_BTD = pre_norm(ln1, x_BTD, c)
    attended_BTD, cache = make_attention(c)(params["attn"], normed_BTD, context=context, cache=cache)
    fed_BTD = FEED_FORWARDS[c.ffn](params["ffn"], normed_BTD)
    attended_BTD, fed_BTD = drop(attended_BTD, place="attn"), drop(fed_BTD, place="ffn")
    if c.norm_position in ("branch", "sandwich"):
        return x_BTD + branch_norm(ln1, ln1_after, attended_BTD + fed_BTD, c), cache
    return post_norm(ln1, x_BTD + attended_BTD + fed_BTD, c), cache


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
        tables: Tables of positions (T,) or (B, T).
    """
    x_BTD = embedding(params["token_embeddings"], token_ids_BT)
    if config.scale_embeddings:
        x_BTD = x_BTD * config.d_model**0.5
    if config.position in ("learned", "sinusoidal"):
        (added,) = tables[config.layer_type(0)]  # all types of layers have the same
        if config.position == "learned":
            added = embedding(params["position_embeddings"], jnp.asarray(added))
        x_BTD = x_BTD + jnp.broadcast_to(added, x_BTD.shape)
    return dropout(x_BTD.astype(compute_dtype), config.embedding_dropout, key, "embedding")


def hidden_states(
    params: Params,
    x_BTD: Float[Array, "B T D"],
    config: ModelConfig,
    contexts: Mapping[LayerType, Context],
    caches: list[LayerCache] | None = None,
    rows: Sharding | None = None,
) -> tuple[Float[Array, "B T D"], list[LayerCache | None]]:
    """Return the residual stream after the last block, normalised, and each layer's cache as written.

    Args:
        contexts: The context of each type of layers.
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
        context = contexts[config.layer_type(i)].within(f"layers.{i}")
        x_BTD, cache = block(layer, x_BTD, context=context, cache=cache)
        x_BTD = constrain(x_BTD, rows)
        written.append(cache)
    if config.norm_position != "post":
        x_BTD = make_norm(config)(params.get("ln_final"), x_BTD)
    return x_BTD, written


def logits(params: Params, x: Float[Array, "*B D"], config: ModelConfig) -> Float[Array, "*B V"]:
    """Apply the head, and the logits' soft cap if the model has one.

    Tied models share the head's weight with their embeddings (Press and Wolf, 2017).
    """
    y = linear(params["lm_head" if "lm_head" in params else "token_embeddings"], x)
    return y if config.logit_softcap is None else softcap(y, config.logit_softcap)


def causal_contexts(
    config: ModelConfig,
    T: int,
    tables: Tables,
    starts_BT: Int[Array, "B T"] | None = None,
    key: DropoutKey | None = None,
) -> dict[LayerType, Context]:
    """Return the context of each type of layers, for T tokens that attend to themselves and to tokens before them.

    Args:
        starts_BT: The index at which each token's document starts. A token attends to its own document alone.
    """
    contexts: dict[LayerType, Context] = {}
    for layer_type, of_type in tables.items():
        window = config.window(layer_type)
        mask = causal_mask(T, window) if starts_BT is None else document_mask(starts_BT, window)
        rope: Any = of_type if config.position == "rope" else None
        contexts[layer_type] = Context(mask, rope, key=key)
    return contexts


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
    tables: Tables = {
        layer_type: position_tables(config, np.arange(T), config.context_length, param_dtype, layer_type)
        for layer_type in config.used_layer_types
    }
    if starts_BT is not None:
        starts_BT = starts_BT.astype(int)  # the type of jnp.arange
        place_BT = jnp.arange(T)[None, :] - starts_BT
        # Every head of a sequence has the sequence's positions.
        place = place_BT[:, None] if config.position == "rope" else place_BT
        tables = jax.tree.map(lambda table: jnp.asarray(table)[place], tables)
    x_BTD = embed(params, token_ids_BT, config, compute_dtype or param_dtype, tables, key)
    contexts = causal_contexts(config, T, tables, starts_BT, key)
    return logits(params, hidden_states(params, x_BTD, config, contexts, rows=rows)[0], config)
