"""The soft cap of attention scores and its derivative, for gradients by hand."""

import jax.numpy as jnp
from jax import Array


def softcap(scores: Array, cap: float) -> Array:
    """cap tanh(scores / cap)."""
    return cap * jnp.tanh(scores / cap)


def softcap_slope(capped: Array, cap: float) -> Array:
    """Return the derivative of `softcap` from its finite result, without the cancellation of 1 - tanh^2."""
    tanh = capped / cap
    return (1 - tanh) * (1 + tanh)
