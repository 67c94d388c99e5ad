"""Matrix products with weights: the order of the factors, and a hand-written gradient."""

import math

import jax
from jax import lax
from jaxtyping import Array, Float

_FEW_ROWS = 64
"""A product of more than one row and at most this many takes less time with the weights first."""


def project(x: Float[Array, "*B I"], weight: Float[Array, "O I"]) -> Float[Array, "*B O"]:
    """x W^T, with the weights first if x has few rows, as when many texts are decoded.

    On a CPU, XLA's products of 2 to 64 rows then take 0.5 to 0.75 of the time (docs/benchmarks.md).
    """
    weight, rows = weight.astype(x.dtype), math.prod(x.shape[:-1])
    if not 1 < rows <= _FEW_ROWS:
        return _project(x, weight)
    y_ON = weight @ x.reshape(rows, -1).T
    # Without the barrier XLA would swap the factors again.
    return lax.optimization_barrier(y_ON).T.reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def _project(x: Array, weight: Array) -> Array:
    return x @ weight.T


def _forward(x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    weight_IO = weight.T
    return x @ weight_IO, (x, weight_IO)


def _backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    """Return autodiff's gradients. The gradient of a tall weight is computed as its transpose.

    Otherwise XLA on a CPU would copy all of g: 82 MB for the logits of tinystories (docs/benchmarks.md).
    """
    x, weight_IO = saved
    x_NI, g_NO = (a.reshape(-1, size) for a, size in zip((x, g), weight_IO.shape, strict=True))
    tall = weight_IO.shape[0] < weight_IO.shape[1]
    d_weight = lax.optimization_barrier(x_NI.T @ g_NO).T if tall else g_NO.T @ x_NI
    # With the forward pass's W^T, as autodiff does: a mesh then gathers W^T once.
    return lax.dot_general(g, weight_IO, (((g.ndim - 1,), (1,)), ((), ()))), d_weight


_project.defvjp(_forward, _backward)
