"""Faults in jax_impl/functional.py: softmax, activations, dropout, cross-entropy, gradient clipping."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_impl.dtypes import at_least_float32
from tests.faults.fault import CLIP, DROPOUT, GELU, LOSS, SILU, SOFTCAP, SOFTMAX, fault, inside


@fault("softmax does not subtract the maximum", "jax_impl.functional.softmax", SOFTMAX)
def _(original: Any) -> Any:
    def broken(x: Array, axis: int) -> Array:
        exp = jnp.exp(at_least_float32(x))
        return (exp / exp.sum(axis, keepdims=True)).astype(x.dtype)

    return broken


@fault("silu loses a term of its gradient", "jax_impl.functional.silu", SILU)
def _(original: Any) -> Any:
    def broken(x: Array) -> Array:
        x32 = at_least_float32(x)
        return (x32 * jax.lax.stop_gradient(jax.lax.logistic(x32))).astype(x.dtype)

    return broken


@fault("GELU's tail cancels", "jax_impl.functional.gelu", GELU)
def _(original: Any) -> Any:
    def broken(x: Array) -> Array:
        x32 = at_least_float32(x)
        return (0.5 * x32 * (1 + jax.lax.erf(x32 * 0.5**0.5))).astype(x.dtype)

    return broken


@fault("relu passes a gradient at 0", "jax_impl.functional.relu", GELU)
def _(original: Any) -> Any:
    return lambda x: jnp.where(x >= 0, x, 0.0)


@fault("JAX's relu2 keeps the sign", "jax_impl.functional.relu2", GELU)
def _(original: Any) -> Any:
    return lambda x: original(x) - original(-x)


@fault("JAX's soft cap is a hard one", "jax_impl.functional.softcap", SOFTCAP)
def _(original: Any) -> Any:
    return lambda x, cap: jnp.clip(x, -cap, cap)


@fault("every step drops the same", "jax_impl.functional.dropout", DROPOUT)
def _(original: Any) -> Any:
    def broken(x: Array, rate: float, key: Any, place: str) -> Array:
        return original(x, rate, key and replace(key, step=0 * key.step), place)

    return broken


@fault("cross-entropy forgets the maximum it subtracted", "jax_impl.functional.token_cross_entropy", LOSS)
def _(original: Any) -> Any:
    def broken(logits: Array, targets: Array, *z_loss: float) -> Array:
        largest = at_least_float32(logits).max(-1)
        return original(logits, targets, *z_loss) - jax.lax.stop_gradient(largest)

    return broken


@fault("JAX's z-loss forgets the maximum", "jax_impl.functional.token_cross_entropy", LOSS)
def _(original: Any) -> Any:
    def broken(logits: Array, targets: Array, z_loss: float = 0.0) -> Array:
        shifted = at_least_float32(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
        return original(logits, targets) + z_loss * jnp.square(jax.nn.logsumexp(shifted, -1))

    return broken


@fault("cross-entropy of bfloat16 logits in bfloat16", "jax_impl.functional.token_cross_entropy", LOSS)
def _(original: Any) -> Any:
    return inside("jax_impl.functional.at_least_float32", lambda _: lambda x: x, original)


@fault("the norm of bfloat16 gradients in bfloat16", "jax_impl.functional.global_norm", CLIP)
def _(original: Any) -> Any:
    def broken(tree: Any) -> Array:
        return jnp.sqrt(sum(jnp.sum(jnp.square(x)).astype(np.float32) for x in jax.tree.leaves(tree)))

    return broken


def _clip(scale: Callable[[Array, float], Array]) -> Any:
    """Return `clip_gradients` with another scale, a function of the norm and its limit."""

    def broken(gradients: Any, max_norm: float) -> tuple[Any, Array]:
        from jax_impl.functional import global_norm

        norm = global_norm(gradients)
        return jax.tree.map(lambda g: g * scale(norm, max_norm).astype(g.dtype), gradients), norm

    return broken


@fault("clipping acts at the limit", "jax_impl.functional.clip_gradients", CLIP)
def _(original: Any) -> Any:
    return _clip(lambda norm, limit: jnp.where(norm >= limit, limit / (norm + 1e-6), 1.0))


@fault("clipping without its 1e-6", "jax_impl.functional.clip_gradients", CLIP)
def _(original: Any) -> Any:
    return _clip(lambda norm, limit: jnp.where(norm > limit, limit / norm, 1.0))
