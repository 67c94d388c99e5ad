"""A JAX port's AdamW: one step of one array."""

import jax.numpy as jnp
from jax import Array


def adamw_step(
    weight: Array,
    gradient: Array,
    m: Array,
    v: Array,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> tuple[Array, Array, Array]:
    beta1, beta2 = betas
    gradient = gradient + weight_decay * weight
    m = beta1 * m + (1 - beta1) * gradient
    v = beta2 * v + (1 - beta2) * gradient**2
    rate = lr * jnp.sqrt(1 - beta2**step) / (1 - beta1**step)
    return weight - rate * m / (jnp.sqrt(v) + eps), m, v
