"""The Transformer: blocks of attention and feed-forward on one residual stream."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jax_impl.attention import (
    LayerCache,
    Rope,
    causal_mask,
    multihead_self_attention,
    padding_mask,
    prefix_mask,
)
from jax_impl.functional import Draw, dropout, gelu, relu, silu
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


def branches(
    params: Params,
    config: ModelConfig,
    mask: Bool[Array, "*M T S"],
    tables: Rope | None,
    cache: LayerCache | None,
    slots_BT: Int[Array, "B T"] | None,
    draw: Draw | None,
) -> tuple[
    Callable[[Array], tuple[Array, LayerCache | None]], Callable[[Array], Array], Callable[..., Array]
]:
    """A block's attention and feed-forward as functions of what they read, and what is done to what they return."""
    return (
        partial(
            multihead_self_attention,
            params["attn"],
            num_heads=config.num_heads,
            mask=mask,
            tables=tables,
            cache=cache,
            slots_BT=slots_BT,
            qk_norm_eps=config.norm_eps,
            attention_dropout=config.attention_dropout,
            draw=draw,
        ),
        partial(FEED_FORWARDS[config.ffn], params["ffn"]),
        partial(dropout, rate=config.residual_dropout, draw=draw),
    )


def transformer_block(
    params: Params,
    x_BTD: Float[Array, "B T D"],
    config: ModelConfig,
    mask: Bool[Array, "*M T S"],
    tables: Rope | None = None,
    cache: LayerCache | None = None,
    slots_BT: Int[Array, "B T"] | None = None,
    draw: Draw | None = None,
) -> tuple[Float[Array, "B T D"], LayerCache | None]:
    """Attention, then feed-forward, each added to the residual stream.

    The stream is normalised before each branch reads it, or after each is added: pre-norm or post-norm
    (Xiong et al., 2020, figure 1).
    """
    (before, after), ln1, ln2 = norms(config), params.get("ln1"), params.get("ln2")
    attention, feed, drop = branches(params, config, mask, tables, cache, slots_BT, draw)
    attended_BTD, cache = attention(before(ln1, x_BTD))
    x_BTD = after(ln1, x_BTD + drop(attended_BTD, place="attn"))
    return after(ln2, x_BTD + drop(feed(before(ln2, x_BTD)), place="ffn")), cache


def parallel_block(
    params: Params,
    x_BTD: Float[Array, "B T D"],
    config: ModelConfig,
    mask: Bool[Array, "*M T S"],
    tables: Rope | None = None,
    cache: LayerCache | None = None,
    slots_BT: Int[Array, "B T"] | None = None,
    draw: Draw | None = None,
) -> tuple[Float[Array, "B T D"], LayerCache | None]:
    """Attention and feed-forward of one normalised stream, both added to it (Chowdhery et al., 2022, section 2)."""
    (before, after), ln1 = norms(config), params.get("ln1")
    attention, feed, drop = branches(params, config, mask, tables, cache, slots_BT, draw)
    normed_BTD = before(ln1, x_BTD)
    attended_BTD, cache = attention(normed_BTD)
    fed_BTD = feed(normed_BTD)
    return after(ln1, x_BTD + drop(attended_BTD, place="attn") + drop(fed_BTD, place="ffn")), cache


BLOCKS = {"sequential": transformer_block, "parallel": parallel_block}


def embed(
    params: Params,
    token_ids_BT: Int[Array, "B T"],
    config: ModelConfig,
    compute_dtype: DTypeLike,
    tables: Tables,
    draw: Draw | None = None,
) -> Float[Array, "B T D"]:
    """The residual stream before the first block."""
    x_BTD = embedding(params["token_embeddings"], token_ids_BT)
    if config.position == "learned":
        x_BTD = x_BTD + jnp.broadcast_to(embedding(params["position_embeddings"], tables[0]), x_BTD.shape)
    elif config.position == "sinusoidal":
        x_BTD = x_BTD + jnp.broadcast_to(tables[0], x_BTD.shape)
    return dropout(x_BTD.astype(compute_dtype), config.embedding_dropout, draw, "embedding")


def at(x: Array, sharding: Sharding | None) -> Array:
    """x itself, laid out so on a mesh, where there is one."""
    return x if sharding is None else jax.lax.with_sharding_constraint(x, sharding)


def hidden_states(
    params: Params,
    x_BTD: Float[Array, "B T D"],
    config: ModelConfig,
    mask: Bool[Array, "*M T S"],
    tables: Tables,
    caches: list[LayerCache] | None = None,
    slots_BT: Int[Array, "B T"] | None = None,
    draw: Draw | None = None,
    rows: Sharding | None = None,
) -> tuple[Float[Array, "B T D"], list[LayerCache | None]]:
    """The residual stream after the last block, normalised, and the caches, one a layer, as written.

    Args:
        tables: Of positions (T,) or (B, T).
        rows: Where on a mesh the rows of the stream lie. XLA then brings the weights to them; else it might as well
            bring all rows to each device's share of the weights.
    """
    # Every head of a sequence has its positions.
    rope: Any = tuple(jnp.expand_dims(t, -3) for t in tables) if config.position == "rope" else None
    (before, _), written = norms(config), []
    # Under jit it is traced once for all layers.
    block: Any = jax.jit(
        partial(BLOCKS[config.block], config=config, mask=mask, tables=rope, slots_BT=slots_BT)
    )
    if config.remat == "block":
        # The backward pass keeps only each block's input, and computes the rest again (Chen et al., 2016).
        block = jax.checkpoint(block)
    x_BTD = at(x_BTD, rows)
    for i, layer in enumerate(params["layers"]):
        within = draw.at(f"layers.{i}") if draw else None
        x_BTD, cache = block(layer, x_BTD, cache=caches[i] if caches else None, draw=within)
        x_BTD = at(x_BTD, rows)
        written.append(cache)
    return before(params.get("ln_final"), x_BTD), written


def logits(params: Params, x: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
    """The head, which tied models have in common with their embeddings (Press and Wolf, 2017)."""
    return linear(params["lm_head" if "lm_head" in params else "token_embeddings"], x)


def host_tables(
    config: ModelConfig, positions: Int[np.ndarray, "..."], length: int, dtype: DTypeLike
) -> tuple[np.ndarray, ...]:
    """The tables of these positions, floating-point ones in a dtype; of learned positions there are `length`."""
    tables = position_tables(config, positions, length)
    return tuple(t.astype(jnp.dtype(dtype)) if t.dtype.kind == "f" else t for t in tables)


def tables_of(
    config: ModelConfig, positions: Int[np.ndarray, "..."], length: int, dtype: DTypeLike
) -> Tables:
    """The same, on the device."""
    return tuple(map(jnp.asarray, host_tables(config, positions, length, dtype)))


def transformer_lm(
    params: Params,
    token_ids_BT: Int[Array, "B T"],
    config: ModelConfig,
    compute_dtype: DTypeLike | None = None,
    draw: Draw | None = None,
    rows: Sharding | None = None,
) -> Float[Array, "B T V"]:
    """Token ids to logits of the next token.

    Args:
        compute_dtype: Type of the activations; the weights' own if not given.
        draw: What to drop; nothing if not given.
        rows: As in `hidden_states`.
    """
    T, param_dtype = token_ids_BT.shape[1], params["token_embeddings"]["weight"].dtype
    tables = tables_of(config, np.arange(T), config.context_length, param_dtype)
    x_BTD = embed(params, token_ids_BT, config, compute_dtype or param_dtype, tables, draw)
    x_BTD, _ = hidden_states(params, x_BTD, config, causal_mask(T), tables, draw=draw, rows=rows)
    return logits(params, x_BTD)


def transformer_encoder(
    params: Params,
    token_ids_BT: Int[Array, "B T"],
    num_tokens_B: Int[Array, " B"],
    config: ModelConfig,
    compute_dtype: DTypeLike | None = None,
    draw: Draw | None = None,
    rows: Sharding | None = None,
) -> Float[Array, "B T V"]:
    """Token ids to logits of the token at each place, from the tokens on both sides (Devlin et al., 2019)."""
    return logits(params, encode(params, token_ids_BT, num_tokens_B, config, compute_dtype, draw, rows))


def encode(
    params: Params,
    token_ids_BT: Int[Array, "B T"],
    num_tokens_B: Int[Array, " B"],
    config: ModelConfig,
    compute_dtype: DTypeLike | None = None,
    draw: Draw | None = None,
    rows: Sharding | None = None,
) -> Float[Array, "B T D"]:
    """The hidden states of an encoder, whose sequences are padded to T."""
    T, param_dtype = token_ids_BT.shape[1], params["token_embeddings"]["weight"].dtype
    tables, mask = tables_of(config, np.arange(T), T, param_dtype), padding_mask(num_tokens_B, T)
    x_BTD = embed(params, token_ids_BT, config, compute_dtype or param_dtype, tables, draw)
    x_BTD, _ = hidden_states(params, x_BTD, config, mask, tables, draw=draw, rows=rows)
    return x_BTD


def behind(
    params: Params,
    hidden_BPD: Float[Array, "B P D"],
    num_tokens_B: Int[Array, " B"],
    token_ids_BT: Int[Array, "B T"],
    config: ModelConfig,
    draw: Draw | None = None,
) -> tuple[Float[Array, "B S D"], Bool[Array, "B 1 S S"], Tables]:
    """What the blocks read of a cache of P places and the tokens behind it.

    Added positions count the tokens from 0, and RoPE goes on where the prefix ends, so that padding counts nowhere.
    """
    (P, T), param_dtype = (
        (hidden_BPD.shape[1], token_ids_BT.shape[1]),
        params["token_embeddings"]["weight"].dtype,
    )
    place_1S = jnp.arange(P + T, dtype=num_tokens_B.dtype)[None, :]
    is_token_BP1 = (place_1S[:, :P] < num_tokens_B[:, None])[..., None]
    cache_BPD = jnp.where(jnp.broadcast_to(is_token_BP1, hidden_BPD.shape), hidden_BPD, 0)
    tables = tables_of(config, np.arange(T), config.context_length, param_dtype)
    x_BTD = embed(params, token_ids_BT, config, hidden_BPD.dtype, tables, draw)
    if config.position == "rope":
        tables = tables_of(config, np.arange(P + T), P + T, param_dtype)
        place_BS = jnp.where(place_1S < P, place_1S, place_1S - P + num_tokens_B[:, None])
        tables = tuple(table[place_BS] for table in tables)
    return jnp.concatenate((cache_BPD, x_BTD), axis=1), prefix_mask(num_tokens_B, P, T), tables


def prefix_decoder(
    params: Params,
    hidden_BPD: Float[Array, "B P D"],
    num_tokens_B: Int[Array, " B"],
    token_ids_BT: Int[Array, "B T"],
    config: ModelConfig,
    draw: Draw | None = None,
    rows: Sharding | None = None,
) -> Float[Array, "B T V"]:
    """A hidden cache, and token ids behind it, to logits of the next token.

    The cache is put before the tokens' embeddings: all blocks see one sequence, in which the cache attends to all of
    the cache, and a token to all of the cache and to the tokens up to itself.
    """
    x_BSD, mask, tables = behind(params, hidden_BPD, num_tokens_B, token_ids_BT, config, draw)
    x_BSD, _ = hidden_states(params, x_BSD, config, mask, tables, draw=draw, rows=rows)
    return logits(params, x_BSD[:, hidden_BPD.shape[1] :])


def encoder_decoder(
    params: Params,
    token_ids_BT: Int[Array, "B T"],
    num_tokens_B: Int[Array, " B"],
    prefix_BP: Int[Array, "B P"],
    config: ModelConfig,
    compute_dtype: DTypeLike | None = None,
    draw: Draw | None = None,
    rows: Sharding | None = None,
) -> Float[Array, "B T V"]:
    """A prefix, whose hidden states are the decoder's cache, and token ids that follow, to logits of the next token."""
    in_encoder, in_decoder = (draw.at(half) if draw else None for half in ("encoder", "decoder"))
    encoder, decoder = params["encoder"], params["decoder"]
    hidden_BPD = encode(encoder, prefix_BP, num_tokens_B, config, compute_dtype, in_encoder, rows)
    return prefix_decoder(decoder, hidden_BPD, num_tokens_B, token_ids_BT, config, in_decoder, rows)


MODELS: dict[str, Callable[..., Array]] = {
    "decoder": transformer_lm,
    "encoder": transformer_encoder,
    "encoder_decoder": encoder_decoder,
}
"""Each takes weights, a batch's inputs, and its num_tokens and prefix where it has them, config, dtype, draw, rows."""
