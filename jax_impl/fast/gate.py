"""SwiGLU's gate with a hand-written gradient."""

import jax
from jaxtyping import Array, Float

from jax_impl.dtypes import at_least_float32


@jax.custom_vjp
def silu_gate(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """silu(a) * b, which keeps only a and b for the backward pass; autodiff keeps the sigmoid and silu(a), too.

    With the other hand-written gradients the form saves a quarter of a training step's temporary memory, as the
    compiled step's `memory_analysis()` says (docs/benchmarks.md).
    """
    return _silu(a) * b


def _silu(x: Array) -> Array:
    x32 = at_least_float32(x)
    return (x32 * jax.lax.logistic(x32)).astype(x.dtype)


def _backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    # Without the barrier XLA would find that the forward pass computes the same sigmoid, and keep the sigmoid.
    a, b, g = jax.lax.optimization_barrier((*saved, g))
    a32, d_silu = at_least_float32(a), at_least_float32(g * b)
    sigmoid = jax.lax.logistic(a32)
    return (d_silu * sigmoid * (1 + a32 * (1 - sigmoid))).astype(a.dtype), g * _silu(a)


silu_gate.defvjp(lambda a, b: (_silu(a) * b, (a, b)), _backward)
