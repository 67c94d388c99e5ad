"""Faults in jax_impl/attention.py: RoPE, attention, its cache, heads, masks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jax_impl.dtypes import Params, at_least_float32
from tests.faults.fault import (
    ATTENTION,
    CACHED,
    ENCODER,
    FAMILY,
    HEADS,
    PREFIXED,
    ROPE,
    SOFTCAP,
    WINDOWS,
    fault,
    inside,
)

FORMULA = "jax_impl.attention.scaled_dot_product_attention"
LAYER = "jax_impl.attention.multihead_self_attention"


@fault("RoPE rotates halves", "jax_impl.attention.rope", ROPE)
def _(original: Any) -> Any:
    """Take x[p] and x[p + d / 2] for a pair."""

    def broken(x_TK: Array, tables: Any) -> Array:
        pairs = x_TK.reshape(*x_TK.shape[:-1], 2, -1).swapaxes(-1, -2)
        return original(pairs.reshape(x_TK.shape), tables)

    return broken


@fault("scores are scaled by the size of the values", FORMULA, ATTENTION)
def _(original: Any) -> Any:
    def broken(Q: Array, K: Array, V: Array, *rest: Any) -> Array:
        return original(Q * (K.shape[-1] / V.shape[-1]) ** 0.5, K, V, *rest)

    return broken


@fault("the mask is inverted", FORMULA, ATTENTION)
def _(original: Any) -> Any:
    def broken(Q: Array, K: Array, V: Array, mask: Array | None = None, *drop: Any) -> Array:
        return original(Q, K, V, None if mask is None else ~mask, *drop)

    return broken


def _attention(
    hides_unread: bool = True,
    shift: Callable[[Array], Array] = lambda largest: jnp.where(largest == -jnp.inf, 0.0, largest),
    divisor: Callable[[Array], Array] = lambda total: jnp.where(total == 0.0, 1.0, total),
) -> Any:
    """Return the formula of attention with one part of it replaced."""

    def broken(
        Q: Array, K: Array, V: Array, mask: Array | None = None, drop: Any = None, cap: float | None = None
    ) -> Array:
        from jax_impl.functional import softcap

        if mask is not None and hides_unread:
            is_read = mask.any(-2)[..., None]
            K, V = (jnp.where(jnp.broadcast_to(is_read, x.shape), x, 0) for x in (K, V))
        scores = at_least_float32(Q) @ at_least_float32(K).mT * Q.shape[-1] ** -0.5
        scores = scores if cap is None else softcap(scores, cap)
        if mask is not None:
            scores = jnp.where(jnp.broadcast_to(mask, scores.shape), scores, -jnp.inf)
        exp = jnp.exp(scores - shift(jax.lax.stop_gradient(scores.max(-1, keepdims=True))))
        weights = exp / divisor(exp.sum(-1, keepdims=True))
        return (weights if drop is None else drop(weights)).astype(V.dtype) @ V

    return broken


@fault("a query that sees nothing subtracts infinity", FORMULA, ATTENTION)
def _(original: Any) -> Any:
    return _attention(shift=lambda largest: largest)


@fault("NaN in unseen keys and values leaks", FORMULA, ATTENTION)
def _(original: Any) -> Any:
    return _attention(hides_unread=False)


@fault("weights that are dropped sum to a constant", FORMULA, FAMILY)
def _(original: Any) -> Any:
    return _attention(divisor=lambda total: jax.lax.stop_gradient(jnp.where(total == 0.0, 1.0, total)))


@fault("keys are not turned", LAYER, HEADS)
def _(original: Any) -> Any:
    def in_turn(rope: Any) -> Any:
        """Rotate what comes first, which are the queries."""
        forms = iter((rope, lambda x_BHTK, tables: x_BHTK))
        return lambda x_BHTK, tables: next(forms)(x_BHTK, tables)

    return inside("jax_impl.attention.rope", in_turn, original)


@fault("keys are normalised with the queries' gains", LAYER, HEADS)
def _(original: Any) -> Any:
    def broken(params: Params, *args: Any, **kwargs: Any) -> Any:
        wrong = {"k_norm": params["q_norm"]} if "q_norm" in params else {}
        return original(params | wrong, *args, **kwargs)

    return broken


@fault("heads are joined before time and heads change places", LAYER, HEADS)
def _(original: Any) -> Any:
    def swap(attention: Any) -> Any:
        """Lay the output out so that swapping time and heads gives what a reshape alone would give."""

        def grouped_query_attention(*args: Any) -> Array:
            out_BHTK = attention(*args)
            *B, H, T, K = out_BHTK.shape
            return out_BHTK.reshape(*B, T, H, K).swapaxes(-2, -3)

        return grouped_query_attention

    return inside("jax_impl.attention.grouped_query_attention", swap, original)


@fault("the cache writes keys as values", "jax_impl.attention.LayerCache.write", HEADS)
def _(original: Any) -> Any:
    return lambda self, k_BHTK, v_BHTK, slots_BT: original(self, k_BHTK, k_BHTK, slots_BT)


@fault("tokens see the future", "jax_impl.masks.causal_mask", ATTENTION)
def _(original: Any) -> Any:
    def broken(T: int, *window: Any) -> Any:
        mask = original(T, *window)
        return replace(mask, first_T=mask.last_T, last_T=jnp.full_like(mask.last_T, T - 1))

    return broken


@fault("an encoder attends to what came before only", "jax_impl.masks.padding_mask", ENCODER)
def _(original: Any) -> Any:
    def broken(num_tokens_B: Array, T: int) -> Any:
        mask = original(num_tokens_B, T)
        return replace(mask, last_T=jnp.broadcast_to(jnp.arange(T), mask.last_T.shape))

    return broken


@fault("a prefix's padding is attended to", "jax_impl.masks.prefix_mask", PREFIXED)
def _(original: Any) -> Any:
    return lambda num_tokens_B, P, T: original(jnp.full_like(num_tokens_B, P), P, T)


@fault("the hidden cache attends to the tokens", "jax_impl.masks.prefix_mask", PREFIXED)
def _(original: Any) -> Any:
    """Let the prefix's queries see what the last token sees, which is everything but padding."""

    def broken(num_tokens_B: Array, P: int, T: int) -> Any:
        mask = original(num_tokens_B, P, T)
        return replace(mask, last_T=mask.last_T.at[:, :P].set(P + T - 1))

    return broken


@fault("JAX's window lacks a key", "jax_impl.masks.causal_mask", WINDOWS)
def _(original: Any) -> Any:
    return lambda T, window=None: original(T, window and window - 1)


@fault("JAX caps scores before it scales them", FORMULA, SOFTCAP)
def _(original: Any) -> Any:
    def broken(Q: Array, K: Array, V: Array, mask: Any = None, drop: Any = None, cap: Any = None) -> Array:
        return original(Q, K, V, mask, drop, cap and cap * Q.shape[-1] ** -0.5)

    return broken


@fault("JAX caps scores after it masks them", FORMULA, SOFTCAP)
def _(original: Any) -> Any:
    """A masked key then has the score -cap."""

    def broken(Q: Array, K: Array, V: Array, mask: Any = None, drop: Any = None, cap: Any = None) -> Array:
        if mask is None or cap is None:
            return original(Q, K, V, mask, drop, cap)
        scores = at_least_float32(Q) @ at_least_float32(K).mT * Q.shape[-1] ** -0.5
        masked = jnp.where(jnp.broadcast_to(mask, scores.shape), scores, -jnp.inf)
        return jax.nn.softmax(cap * jnp.tanh(masked / cap)).astype(V.dtype) @ V

    return broken


def _with_option(name: str, value: Any) -> Any:
    """Return a fault of attention that ignores an option."""

    def replace(original: Any) -> Any:
        return lambda *args, **options: original(*args, **options | {name: value})

    return replace


fault("JAX's norms of queries and keys forget the 1", LAYER, HEADS)(_with_option("norm_offset", 0.0))
fault("JAX's queries have no factor", LAYER, HEADS)(_with_option("query_factor", 1.0))


@fault("JAX normalises each head in place of all heads", LAYER, HEADS)
def _(original: Any) -> Any:
    def by_head(rmsnorm: Any) -> Any:
        def normalise(gains: Params, x: Array, eps: float, offset: float) -> Array:
            if x.shape[-2] > 1:  # as many norms as heads already
                return rmsnorm(gains, x, eps, offset)
            halves = x.reshape(*x.shape[:-2], 2, -1)
            weight = jnp.broadcast_to(gains["weight"].reshape(2, -1), halves.shape)
            inverse_rms = jax.lax.rsqrt(jnp.square(halves).mean(-1, keepdims=True) + eps)
            return (halves * inverse_rms * (offset + weight)).reshape(x.shape)

        return normalise

    return inside("jax_impl.attention.rmsnorm", by_head, original)


@fault("JAX's prompts fill the ring from its second slot", "jax_impl.attention.LayerCache.fill", CACHED)
def _(original: Any) -> Any:
    def broken(cls: Any, k_BHTK: Array, v_BHTK: Array, kept_BS: Array) -> Any:
        return original.__func__(cls, k_BHTK, v_BHTK, jnp.roll(kept_BS, 1, -1))

    return classmethod(broken)
