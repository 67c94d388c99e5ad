"""The layers with weights, but for attention. Their parameters are dicts named as torch_impl's modules."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jax_impl.functional import at_least_float32, gated

Params = dict[str, Any]

_FEW_ROWS = 64
"""Up to so many rows, a product with weights costs less with the weights first."""


def linear(params: Params, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
    """x W^T, plus a bias where there is one; the weight is (d_out, d_in)."""
    y = product(x, params["weight"].astype(x.dtype))
    return y + jnp.broadcast_to(params["bias"].astype(x.dtype), y.shape) if "bias" in params else y


def product(x: Float[Array, "*B I"], weight: Float[Array, "O I"]) -> Float[Array, "*B O"]:
    """x W^T; of few rows, as in decoding, with the weights first: XLA's product on a CPU is then a third faster."""
    rows = math.prod(x.shape[:-1])
    if not 1 < rows <= _FEW_ROWS:
        return _product(x, weight)
    y_ON = weight @ x.reshape(rows, -1).T
    # Without the barrier XLA would turn the product around again.
    return lax.optimization_barrier(y_ON).T.reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def _product(x: Array, weight: Array) -> Array:
    return x @ weight.T


def _product_and_keep(x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    weight_IO = weight.T
    return x @ weight_IO, (x, weight_IO)


def _product_gradient(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    """Autodiff's; but of a tall weight's gradient XLA computes the transpose, else on a CPU it would copy all of g."""
    x, weight_IO = kept
    x_NI, g_NO = (a.reshape(-1, size) for a, size in zip((x, g), weight_IO.shape, strict=True))
    tall = weight_IO.shape[0] < weight_IO.shape[1]
    d_weight = lax.optimization_barrier(x_NI.T @ g_NO).T if tall else g_NO.T @ x_NI
    # By the forward pass's W^T, as autodiff does: a mesh then gathers it once.
    return lax.dot_general(g, weight_IO, (((g.ndim - 1,), (1,)), ((), ()))), d_weight


_product.defvjp(_product_and_keep, _product_gradient)


def embedding(params: Params, token_ids: Int[Array, "..."]) -> Float[Array, "... D"]:
    """One row of the weight (vocab_size, d_model) for each token id.

    Ids must lie in 0 .. vocab_size - 1; the training step and generation check them before they come here.
    """
    return params["weight"][token_ids]


def rmsnorm(params: Params, x: Float[Array, "... D"], eps: float = 1e-5) -> Float[Array, "... D"]:
    """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich, 2019, eq. 4), computed in at least float32."""
    x32 = at_least_float32(x)
    inverse_rms = lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + eps)
    return (x32 * inverse_rms * jnp.broadcast_to(params["weight"], x.shape)).astype(x.dtype)


def layernorm(params: Params, x: Float[Array, "... D"], eps: float = 1e-5) -> Float[Array, "... D"]:
    """(x - mean(x)) / sqrt(var(x) + eps) * weight + bias (Ba et al., 2016, eq. 4), computed in at least float32."""
    x32 = at_least_float32(x)
    centred = x32 - x32.mean(-1, keepdims=True)
    inverse_std = lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)
    weight, bias = (jnp.broadcast_to(params[name], x.shape) for name in ("weight", "bias"))
    return (centred * inverse_std * weight + bias).astype(x.dtype)


def identity(params: Params | None, x: Float[Array, "... D"], eps: float = 0.0) -> Float[Array, "... D"]:
    """x itself: a norm that is left out."""
    return x


def swiglu(params: Params, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """w2(silu(w1 x) * w3 x) (Shazeer, 2020, eq. 6)."""
    return linear(params["w2"], gated(linear(params["w1"], x), linear(params["w3"], x)))


def feed_forward(
    params: Params, x: Float[Array, "... D"], activation: Callable[[Array], Array]
) -> Float[Array, "... D"]:
    """w2(activation(w1 x)) (Vaswani et al., 2017, eq. 2)."""
    return linear(params["w2"], activation(linear(params["w1"], x)))
