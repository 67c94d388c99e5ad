"""The layers with weights, except attention. Their parameters are dicts named as torch_impl's modules."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jax_impl.dtypes import Params, at_least_float32
from jax_impl.functional import gelu_gate, project, silu_gate


def linear(params: Params, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
    """x W^T, plus a bias if the layer has one; the weight is (d_out, d_in)."""
    y = project(x, params["weight"])
    return y + jnp.broadcast_to(params["bias"].astype(x.dtype), y.shape) if "bias" in params else y


def embedding(params: Params, token_ids: Int[Array, "..."]) -> Float[Array, "... D"]:
    """One row of the weight (vocab_size, d_model) for each token id.

    Ids must lie in 0 .. vocab_size - 1; the training step and generation check ids on the host.
    """
    return params["weight"][token_ids]


def rmsnorm(
    params: Params, x: Float[Array, "... D"], eps: float = 1e-5, offset: float = 0.0
) -> Float[Array, "... D"]:
    """x / sqrt(mean(x^2) + eps) * (offset + weight), computed in at least float32.

    (Zhang and Sennrich, 2019, eq. 4, whose offset is 0.)
    """
    x32 = at_least_float32(x)
    inverse_rms = lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + eps)
    gain = offset + at_least_float32(params["weight"])
    return (x32 * inverse_rms * jnp.broadcast_to(gain, x.shape)).astype(x.dtype)


def layernorm(
    params: Params, x: Float[Array, "... D"], eps: float = 1e-5, offset: float = 0.0
) -> Float[Array, "... D"]:
    """(x - mean(x)) / sqrt(var(x) + eps) * (offset + weight) + bias, computed in at least float32.

    (Ba et al., 2016, eq. 4, whose offset is 0.)
    """
    x32 = at_least_float32(x)
    centred = x32 - x32.mean(-1, keepdims=True)
    inverse_std = lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)
    gain, bias = offset + at_least_float32(params["weight"]), params["bias"]
    gain, bias = (jnp.broadcast_to(a, x.shape) for a in (gain, bias))
    return (centred * inverse_std * gain + bias).astype(x.dtype)


def identity(
    params: Params | None, x: Float[Array, "... D"], eps: float = 0.0, offset: float = 0.0
) -> Float[Array, "... D"]:
    """x itself: a norm that is left out."""
    return x


def gated_feed_forward(
    params: Params, x: Float[Array, "... D"], gate: Callable[[Array, Array], Array]
) -> Float[Array, "... D"]:
    """w2(gate(w1 x, w3 x))."""
    return linear(params["w2"], gate(linear(params["w1"], x), linear(params["w3"], x)))


def swiglu(params: Params, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """w2(silu(w1 x) * w3 x) (Shazeer, 2020, eq. 6)."""
    return gated_feed_forward(params, x, silu_gate)


def geglu(params: Params, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """w2(gelu_tanh(w1 x) * w3 x) (Shazeer, 2020, eq. 6)."""
    return gated_feed_forward(params, x, gelu_gate)


def feed_forward(
    params: Params, x: Float[Array, "... D"], activation: Callable[[Array], Array]
) -> Float[Array, "... D"]:
    """w2(activation(w1 x)) (Vaswani et al., 2017, eq. 2)."""
    return linear(params["w2"], activation(linear(params["w1"], x)))
