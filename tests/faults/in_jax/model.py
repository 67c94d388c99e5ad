"""Faults in jax_impl/model.py: norms, blocks, the stack, positions."""

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array

from jax_impl.dtypes import Params
from tests.faults.fault import (
    BLOCK,
    CONVENTIONS,
    DOCUMENTS,
    EMBEDDING,
    FAMILY,
    MATRIX,
    MODEL,
    SOFTCAP,
    WINDOWS,
    fault,
    inside,
)


@fault("epsilon is not the config's", "jax_impl.model.make_norm", BLOCK)
def _(original: Any) -> Any:
    return lambda config: partial(original(config), eps=1e-6)


def _without_norm(function: Any, name: str) -> Any:
    """Return a function of weights, which leaves out their pre-norm of this name."""

    def broken(params: Params, *args: Any, **kwargs: Any) -> Any:
        left_out = params.get(name)

        def leave_out(pre_norm: Any) -> Any:
            return lambda norm, x, config: x if norm is left_out else pre_norm(norm, x, config)

        return inside("jax_impl.model.pre_norm", leave_out, function)(params, *args, **kwargs)

    return broken


@fault("the feed-forward layer reads the stream unnormalised", "jax_impl.model.BLOCKS", BLOCK)
def _(original: Any) -> Any:
    return original | {"sequential": _without_norm(original["sequential"], "ln2")}


@fault("JAX's logits have no cap", "jax_impl.model.logits", SOFTCAP)
def _(original: Any) -> Any:
    return inside("jax_impl.model.softcap", lambda _: lambda x, cap: x, original)


@fault("the final norm is left out", "jax_impl.model.hidden_states", MODEL)
def _(original: Any) -> Any:
    def broken(params: Params, *args: Any, **kwargs: Any) -> Any:
        left_out = params.get("ln_final")

        def leave_out(make_norm: Any) -> Any:
            return lambda config: lambda norm, x: x if norm is left_out else make_norm(config)(norm, x)

        return inside("jax_impl.model.make_norm", leave_out, original)(params, *args, **kwargs)

    return broken


@fault("the last layer is left out", "jax_impl.model.hidden_states", MODEL)
def _(original: Any) -> Any:
    def broken(params: Params, *args: Any, **kwargs: Any) -> Any:
        return original(params | {"layers": params["layers"][:-1]}, *args, **kwargs)

    return broken


@fault("post-norm stands before the sum", "jax_impl.model.BLOCKS", FAMILY)
def _(original: Any) -> Any:
    """Normalise the output of attention, not its sum with the stream."""

    def block(params: Params, x_BTD: Array, *args: Any, **kwargs: Any) -> Any:
        ln1 = params.get("ln1")

        def before_the_sum(post_norm: Any) -> Any:
            def normalise(norm: Any, sum_BTD: Array, config: Any) -> Array:
                if norm is ln1:
                    return x_BTD + post_norm(norm, sum_BTD - x_BTD, config)
                return post_norm(norm, sum_BTD, config)

            return normalise

        run = inside("jax_impl.model.post_norm", before_the_sum, original["sequential"])
        return run(params, x_BTD, *args, **kwargs)

    return original | {"sequential": block}


@fault("learned positions are not decoded", "jax_impl.model.embed", FAMILY)
def _(original: Any) -> Any:
    def broken(params: Params, token_ids_BT: Array, config: Any, dtype: Any, tables: Any, *key: Any) -> Array:
        if config.position == "learned":
            tables = {"full": (jnp.zeros_like(tables["full"][0]),)}
        return original(params, token_ids_BT, config, dtype, tables, *key)

    return broken


@fault("JAX's attention crosses the border of a document", "jax_impl.model.document_mask", DOCUMENTS)
def _(document_mask: Any) -> Any:
    return lambda starts_BT, window: document_mask(jnp.zeros_like(starts_BT), window)


@fault("JAX's positions run on after a document", "jax_impl.model.transformer_lm", DOCUMENTS)
def _(transformer_lm: Any) -> Any:
    def broken(*args: Any, starts_BT: Any = None, **kwargs: Any) -> Array:
        if starts_BT is None:
            return transformer_lm(*args, **kwargs)

        def with_starts(document_mask: Any) -> Any:
            return lambda _, window: document_mask(starts_BT, window)

        run = inside("jax_impl.model.document_mask", with_starts, transformer_lm)
        return run(*args, starts_BT=jnp.zeros_like(starts_BT), **kwargs)

    return broken


@fault("all of JAX's layers slide", "jax_impl.model.causal_contexts", WINDOWS)
def _(causal_contexts: Any) -> Any:
    def broken(*args: Any) -> Any:
        contexts = causal_contexts(*args)
        return dict.fromkeys(contexts, contexts.get("sliding", contexts.get("full")))

    return broken


@fault("JAX's sliding layers have the theta of the full ones", "jax_impl.model.position_tables", WINDOWS)
def _(position_tables: Any) -> Any:
    return lambda config, positions, length, dtype, kind: position_tables(config, positions, length, dtype)


@fault("JAX scales the embeddings of positions, too", "jax_impl.model.embed", EMBEDDING)
def _(original: Any) -> Any:
    def broken(params: Params, token_ids_BT: Array, config: Any, dtype: Any, tables: Any, *key: Any) -> Array:
        if config.scale_embeddings and config.position == "sinusoidal":
            tables = {kind: (table * config.d_model**0.5,) for kind, (table,) in tables.items()}
        return original(params, token_ids_BT, config, dtype, tables, *key)

    return broken


@fault("JAX's final norm forgets the 1", "jax_impl.model.hidden_states", MATRIX)
def _(original: Any) -> Any:
    def broken(params: Params, *args: Any, **kwargs: Any) -> Any:
        final = params.get("ln_final")

        def forget(make_norm: Any) -> Any:
            def norm_of(config: Any) -> Any:
                right = make_norm(config)
                return lambda norm, x: right(norm, x, **({"offset": 0.0} if norm is final else {}))

            return norm_of

        return inside("jax_impl.model.make_norm", forget, original)(params, *args, **kwargs)

    return broken


@fault("JAX's sandwich takes its first norm twice", "jax_impl.model.branch_norm", CONVENTIONS)
def _(original: Any) -> Any:
    return lambda norm, after, x_BTD, config: original(norm, norm, x_BTD, config)
