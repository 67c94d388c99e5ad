"""Faults in jax_impl/layers.py: linear, embedding, norms, SwiGLU."""

from typing import Any

import jax.numpy as jnp
from jax import Array, custom_vjp, lax

from jax_impl.dtypes import Params, at_least_float32
from tests.faults.fault import EMBEDDING, LAYERNORM, LINEAR, NORM, SWIGLU, fault, inside


@fault("linear passes its weight no gradient", "jax_impl.layers.linear", LINEAR)
def _(original: Any) -> Any:
    return lambda params, x: original(params | {"weight": lax.stop_gradient(params["weight"])}, x)


@fault("the bias is added twice", "jax_impl.layers.linear", LINEAR)
def _(original: Any) -> Any:
    def broken(params: Params, x: Array) -> Array:
        return original(params | {"bias": 2 * params["bias"]} if "bias" in params else params, x)

    return broken


@fault("embedding drops the gradients of repeated ids", "jax_impl.layers.embedding", EMBEDDING)
def _(original: Any) -> Any:
    @custom_vjp
    def look_up(weight: Array, token_ids: Array) -> Array:
        return original({"weight": weight}, token_ids)

    def backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, None]:
        weight, token_ids = saved
        return jnp.zeros_like(weight).at[token_ids].set(g), None

    look_up.defvjp(lambda *saved: (look_up(*saved), saved), backward)
    return lambda params, token_ids: look_up(params["weight"], token_ids)


@fault("the norm subtracts the mean", "jax_impl.layers.rmsnorm", NORM)
def _(original: Any) -> Any:
    def broken(params: Params, x: Array, eps: float = 1e-5) -> Array:
        x32 = at_least_float32(x)
        inverse_rms = lax.rsqrt(x32.var(-1, keepdims=True) + eps)
        return (x32 * inverse_rms * jnp.broadcast_to(params["weight"], x.shape)).astype(x.dtype)

    return broken


@fault("the norm squares in bfloat16", "jax_impl.layers.rmsnorm", NORM)
def _(original: Any) -> Any:
    return inside("jax_impl.layers.at_least_float32", lambda _: lambda x: x, original)


@fault("LayerNorm divides by n - 1", "jax_impl.layers.layernorm", LAYERNORM)
def _(original: Any) -> Any:
    def broken(params: Params, x: Array, eps: float = 1e-5) -> Array:
        x32 = at_least_float32(x)
        centred = x32 - x32.mean(-1, keepdims=True)
        inverse_std = lax.rsqrt(x32.var(-1, ddof=1, keepdims=True) + eps)
        weight, bias = (jnp.broadcast_to(params[name], x.shape) for name in ("weight", "bias"))
        return (centred * inverse_std * weight + bias).astype(x.dtype)

    return broken


@fault("SwiGLU becomes GLU", "jax_impl.layers.swiglu", SWIGLU)
def _(original: Any) -> Any:
    return inside("jax_impl.layers.silu_gate", lambda _: lambda a, b: lax.logistic(a) * b, original)
