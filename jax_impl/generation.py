"""Writing text: the Backend functions of JAX that read prompts into a cache and then one token a step."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jax_impl import fast, sharding
from jax_impl.attention import Context, LayerCache
from jax_impl.dtypes import Params, at_least_float32, dtype_named
from jax_impl.fast import few_lengths, few_rows, padded
from jax_impl.model import Tables, causal_contexts, embed, hidden_states, logits
from jax_impl.sequences import MODELS, after_prefix, encode
from jax_impl.state import TrainState
from lm.backend import DecodeStep, Logits, Prefill
from lm.config import LayerType, TrainConfig
from lm.data.batch import check_token_ids
from lm.data.documents import document_starts
from lm.init import position_tables
from lm.text.rings import kept_places, ring_length


class Cache(NamedTuple):
    """The state of texts that are being written: each layer's cache, a ring of slots after P slots for a prefix."""

    num_tokens_B: Int[np.ndarray, " B"]
    """Number of tokens of each prefix, 0 without a prefix. B is the number of texts, padded by `few_rows`."""
    P: int
    layers: list[LayerCache | None]


def decoder_of(params: Params) -> Params:
    """Return the weights of the part that writes text."""
    return params.get("decoder", params)


def make_logits(config: TrainConfig) -> Logits:
    """Make the forward pass without a cache."""
    m = config.model
    model = MODELS[m.architecture]

    @partial(jax.jit, compiler_options=sharding.same_bits(config))
    def jitted(params: Params, inputs: dict[str, Array]) -> Array:
        logits_BTV = model(params, **inputs, config=m, compute_dtype=dtype_named(config.compute_dtype))
        return logits_BTV.astype(config.param_dtype)

    def all_logits(
        state: TrainState,
        token_ids_BT: Int[np.ndarray, "B T"],
        num_tokens_B: Int[np.ndarray, " B"] | None = None,
        prefix_BP: Int[np.ndarray, "B P"] | None = None,
    ) -> Float[np.ndarray, "B T V"]:
        for token_ids in (token_ids_BT, prefix_BP):
            if token_ids is not None:
                check_token_ids(token_ids, m.vocab_size)
        (B, T), rows = token_ids_BT.shape, few_rows(len(token_ids_BT))
        # Always int32: each type of the caller's ids would compile a program.
        inputs = {
            "token_ids_BT": padded(token_ids_BT.astype(np.int32), rows, few_lengths(T, m.context_length))
        }
        if num_tokens_B is not None:
            inputs["num_tokens_B"] = padded(num_tokens_B, rows)
        if prefix_BP is not None:
            P = few_lengths(prefix_BP.shape[1], m.prefix_length or 0)
            inputs["prefix_BP"] = padded(prefix_BP, rows, P)
        starts_BT = document_starts(inputs["token_ids_BT"], config)
        if starts_BT is not None:
            inputs["starts_BT"] = starts_BT
        return np.asarray(jitted(state.params, inputs))[:B, :T]

    return all_logits


def make_prefill(config: TrainConfig) -> Prefill:
    """Make the pass over the prompts, which fills a cache."""
    m, dtype = config.model, dtype_named(config.compute_dtype)

    @partial(jax.jit, compiler_options=sharding.same_bits(config))
    def jitted(
        params: Params,
        token_ids_BT: Array,
        lengths_B: Array,
        kept_BS: dict[LayerType, Array],
        prefix_BP: Array | None,
        num_tokens_B: Array,
    ) -> tuple[Array, list[LayerCache | None]]:
        B, T = token_ids_BT.shape
        decoder = decoder_of(params)
        if prefix_BP is None:
            tables: Tables = {
                layer_type: position_tables(m, np.arange(T), m.context_length, config.param_dtype, layer_type)
                for layer_type in m.used_layer_types
            }
            x_BSD = embed(decoder, token_ids_BT, m, dtype, tables)
            contexts = causal_contexts(m, T, tables)
        else:
            hidden_BPD = encode(params["encoder"], prefix_BP, num_tokens_B, m, dtype)
            x_BSD, contexts = after_prefix(decoder, hidden_BPD, num_tokens_B, token_ids_BT, m)
        contexts = {name: replace(context, kept_BS=kept_BS[name]) for name, context in contexts.items()}
        x_BSD, caches = hidden_states(decoder, x_BSD, m, contexts)
        last_BD = x_BSD[jnp.arange(B), x_BSD.shape[1] - T + lengths_B - 1]
        return at_least_float32(logits(decoder, last_BD, m)), caches

    def prefill(
        state: TrainState,
        token_ids_BT: Int[np.ndarray, "B T"],
        lengths_B: Int[np.ndarray, " B"],
        slots: int | None = None,
        prefix_BP: Int[np.ndarray, "B P"] | None = None,
        num_tokens_B: Int[np.ndarray, " B"] | None = None,
    ) -> tuple[np.ndarray, Cache]:
        check_token_ids(token_ids_BT, m.vocab_size)
        (B, T), P, rows = token_ids_BT.shape, 0, few_rows(len(token_ids_BT))
        if prefix_BP is None or num_tokens_B is None:
            num_tokens_B = np.zeros(B, np.int64)
        else:
            check_token_ids(prefix_BP, m.vocab_size)
            P = prefix_BP.shape[1]
            prefix_BP = padded(prefix_BP, rows, P)
        lengths_B, num_tokens_B = padded(lengths_B, rows), padded(num_tokens_B, rows)
        kept_BS = {
            layer_type: kept_places(lengths_B, P, ring_length(m, layer_type, slots or m.context_length))
            for layer_type in m.used_layer_types
        }
        logits_BV, caches = jitted(
            state.params, padded(token_ids_BT, rows, T), lengths_B, kept_BS, prefix_BP, num_tokens_B
        )
        return np.asarray(logits_BV)[:B], Cache(num_tokens_B, P, caches)

    return prefill


def make_decode_step(config: TrainConfig) -> DecodeStep:
    """Make the step that reads one token of each text. It takes the oldest token's slot in each full ring."""
    m, dtype = config.model, dtype_named(config.compute_dtype)
    options = fast.decoding_options() | sharding.same_bits(config)

    @partial(jax.jit, donate_argnums=1, static_argnums=2, compiler_options=options)
    def jitted(
        params: Params,
        caches: list[LayerCache],
        P: int,
        ids_B1: Array,
        position_B1: Array,
        num_tokens_B1: Array,
        tables: Tables,
    ) -> tuple[Array, list[LayerCache | None]]:
        rings = {m.layer_type(i): cache.v_BHSK.shape[2] - P for i, cache in enumerate(caches)}
        decoder, contexts = decoder_of(params), {}
        for layer_type, S in rings.items():
            sees_BS = jnp.concatenate(
                (jnp.arange(P)[None, :] < num_tokens_B1, jnp.arange(S)[None, :] <= position_B1), axis=1
            )
            # Every head of a text has the text's position.
            rope: Any = (
                tuple(table[:, None] for table in tables[layer_type]) if m.position == "rope" else None
            )
            contexts[layer_type] = Context(sees_BS[:, None, None, :], rope, P + position_B1 % S)
        x_B1D = embed(decoder, ids_B1, m, dtype, tables)
        x_B1D, written = hidden_states(decoder, x_B1D, m, contexts, caches)
        return at_least_float32(logits(decoder, x_B1D[:, 0], m)), written

    def decode_step(
        state: TrainState,
        cache: Cache,
        token_ids_B: Int[np.ndarray, " B"],
        positions_B: Int[np.ndarray, " B"],
    ) -> tuple[np.ndarray, Cache]:
        check_token_ids(token_ids_B, m.vocab_size)
        rows = len(cache.num_tokens_B)
        ids_B1, position_B1 = (padded(x_B, rows)[:, None] for x_B in (token_ids_B, positions_B))
        num_tokens_B1 = cache.num_tokens_B[:, None].astype(positions_B.dtype)
        # RoPE continues from the prefix's end.
        place_B1 = position_B1 + num_tokens_B1 if m.position == "rope" else position_B1
        # The tables are NumPy arrays until the call: putting each on the device by itself costs as much as a layer.
        tables = {
            layer_type: position_tables(m, place_B1, m.context_length, config.param_dtype, layer_type)
            for layer_type in m.used_layer_types
        }
        logits_BV, written = jitted(
            state.params, cache.layers, cache.P, ids_B1, position_B1, num_tokens_B1, tables
        )
        return np.asarray(logits_BV)[: len(token_ids_B)], cache._replace(layers=written)

    return decode_step
