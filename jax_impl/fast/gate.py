"""The gates of SwiGLU and GeGLU with hand-written gradients."""

import math
from collections.abc import Callable
from functools import partial

import jax
from jaxtyping import Array, Float

from jax_impl.dtypes import at_least_float32


def silu_gate(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """silu(a) * b, which keeps only a and b for the backward pass; autodiff keeps the sigmoid and silu(a), too.

    With the other hand-written gradients the form saves a quarter of a training step's temporary memory, as the
    compiled step's `memory_analysis()` says (docs/benchmarks.md).
    """
    return _gate(_silu, _silu_gradient, a, b)


def gelu_gate(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """gelu_tanh(a) * b, which keeps only a and b for the backward pass, as `silu_gate` does."""
    return _gate(_gelu_tanh, _gelu_tanh_gradient, a, b)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gate(
    activation: Callable[[Array], Array], gradient: Callable[[Array, Array], Array], a: Array, b: Array
) -> Array:
    return activation(a) * b


def _forward(
    activation: Callable[[Array], Array], gradient: Callable[[Array, Array], Array], a: Array, b: Array
) -> tuple[Array, tuple[Array, Array]]:
    return activation(a) * b, (a, b)


def _backward(
    activation: Callable[[Array], Array],
    gradient: Callable[[Array, Array], Array],
    saved: tuple[Array, Array],
    g: Array,
) -> tuple[Array, Array]:
    # Without the barrier XLA would find that the forward pass computes the same sigmoid, and keep the sigmoid.
    a, b, g = jax.lax.optimization_barrier((*saved, g))
    return gradient(at_least_float32(a), at_least_float32(g * b)).astype(a.dtype), g * activation(a)


_gate.defvjp(_forward, _backward)


def _silu(x: Array) -> Array:
    x32 = at_least_float32(x)
    return (x32 * jax.lax.logistic(x32)).astype(x.dtype)


def _silu_gradient(x: Array, g: Array) -> Array:
    sigmoid = jax.lax.logistic(x)
    return g * sigmoid * (1 + x * (1 - sigmoid))


def _gelu_tanh(x: Array) -> Array:
    x32 = at_least_float32(x)
    return (x32 * _gelu_sigmoid(x32)).astype(x.dtype)


def _gelu_tanh_gradient(x: Array, g: Array) -> Array:
    sigmoid, slope = _gelu_sigmoid(x), (8 / math.pi) ** 0.5 * (1 + 3 * 0.044715 * x * x)
    return g * sigmoid * (1 + x * (1 - sigmoid) * slope)


def _gelu_sigmoid(x: Array) -> Array:
    return jax.lax.logistic((8 / math.pi) ** 0.5 * (x + 0.044715 * x * x * x))
