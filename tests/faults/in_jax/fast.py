"""Faults in jax_impl/fast: gradients by hand, and compiler options."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from jax_impl.dtypes import at_least_float32
from tests.faults.fault import ATTENTION, LINEAR, LOSS, REMAT, SWIGLU, fault


def _with_gradient(original: Any, backward: Callable[..., Any]) -> Any:
    """Return a function with another gradient. JAX binds gradients at import, so the function is made again."""
    broken = jax.custom_vjp(original.fun)
    broken.defvjp(original.fwd, backward)
    return broken


@fault(
    "the gradient of scores lacks the softmax's mean, in JAX", "jax_impl.fast.attention._attend", ATTENTION
)
def _(original: Any) -> Any:
    def backward(saved: Any, g: Array) -> Any:
        Q, K, V, weights = saved
        d_scores = (weights * at_least_float32(g @ V.mT)).astype(Q.dtype) * Q.shape[-1] ** -0.5
        return d_scores @ K, d_scores.mT @ Q, *original.bwd(saved, g)[2:]

    return _with_gradient(original, backward)


@fault("the gradient of queries lacks the scale, in JAX", "jax_impl.fast.attention._attend", ATTENTION)
def _(original: Any) -> Any:
    def backward(saved: Any, g: Array) -> Any:
        d_Q, *others = original.bwd(saved, g)
        return d_Q * d_Q.shape[-1] ** 0.5, *others

    return _with_gradient(original, backward)


@fault("the loss's gradient ignores what flows in, in JAX", "jax_impl.fast.loss._losses", LOSS)
def _(original: Any) -> Any:
    return _with_gradient(original, lambda saved, g_N: original.bwd(saved, jax.numpy.ones_like(g_N)))


@fault("the gate's gradient loses a term, in JAX", "jax_impl.fast.gate.silu_gate", SWIGLU)
def _(original: Any) -> Any:
    def backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
        a, b = saved
        sigmoid, (_, d_b) = jax.lax.logistic(at_least_float32(a)), original.bwd(saved, g)
        return (at_least_float32(g * b) * sigmoid).astype(a.dtype), d_b

    return _with_gradient(original, backward)


@fault("the gradient of a tall weight is not turned back, in JAX", "jax_impl.fast.product._project", LINEAR)
def _(original: Any) -> Any:
    def backward(saved: Any, g: Array) -> tuple[Array, Array]:
        d_x, d_weight = original.bwd(saved, g)
        d_out, d_in = d_weight.shape
        return d_x, d_weight.T.reshape(d_out, d_in) if d_in < d_out else d_weight

    return _with_gradient(original, backward)


@fault("XLA undoes remat", "jax_impl.fast.programs.training_options", REMAT)
def _(original: Any) -> Any:
    return lambda device: {}
