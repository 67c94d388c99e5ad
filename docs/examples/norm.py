"""A JAX port's RMSNorm, which computes in the type of its input."""

import jax.numpy as jnp
from jax import Array, lax


def rmsnorm(x: Array, weight: Array, eps: float) -> Array:
    mean = jnp.mean(x * x, axis=-1, keepdims=True)
    return x * lax.rsqrt(mean + eps) * weight
