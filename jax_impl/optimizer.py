"""AdamW and SGD as pairs of init and update on trees of arrays."""

import math
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

Tree: TypeAlias = PyTree[Float[Array, "..."]]


class AdamWState(NamedTuple):
    """First and second moments, trees like the parameters, and the number of steps taken."""

    m: Tree
    v: Tree
    step: Int[Array, ""]


def adamw_init(params: Tree) -> AdamWState:
    """Return zero moments for these parameters."""
    return AdamWState(
        jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.int32)
    )


def adamw_update(
    gradients: Tree,
    state: AdamWState,
    params: Tree,
    lr: float | Float[Array, ""],
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float | PyTree[float] = 0.01,
    apply: bool | Bool[Array, ""] = True,
) -> tuple[Tree, AdamWState]:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, algorithm 2), as the course writes it.

    The bias correction is folded into the step size, epsilon is added to the uncorrected root, and the decay
    follows the update, by lr * weight_decay.

    Args:
        weight_decay: One number for all parameters, or a tree of numbers like the parameters.
        apply: Nothing changes if it is false. It is applied value by value, so that XLA can overwrite the old values.

    Returns:
        The new parameters and state.
    """
    beta1, beta2 = betas
    step = state.step + 1

    def update(p: Array, g: Array, m: Array, v: Array, decay: float) -> tuple[Array, Array, Array]:
        rate, t = jnp.asarray(lr, p.dtype), step.astype(p.dtype)
        m = jnp.where(apply, beta1 * m + (1 - beta1) * g, m)
        v = jnp.where(apply, beta2 * v + (1 - beta2) * jnp.square(g), v)
        step_size = rate * jnp.sqrt(_one_minus_power(beta2, t)) / _one_minus_power(beta1, t)
        before, p = p, p - step_size * (m / (jnp.sqrt(v) + eps))
        return jnp.where(apply, p - rate * decay * p, before), m, v

    decays = (
        jax.tree.map(lambda _: weight_decay, params)
        if isinstance(weight_decay, int | float)
        else weight_decay
    )
    updated = jax.tree.map(update, params, gradients, state.m, state.v, decays)
    params, m, v = jax.tree.transpose(jax.tree.structure(params), None, updated)
    return params, AdamWState(m, v, jnp.where(apply, step, state.step))


def _one_minus_power(beta: float, t: Float[Array, ""]) -> Float[Array, ""]:
    """1 - beta^t, without the cancellation that costs float32 four digits at beta = 0.999 and t = 1."""
    return -jnp.expm1(t * math.log(beta)) if beta > 0 else jnp.ones_like(t)


class SGDState(NamedTuple):
    """The number of steps taken."""

    step: Int[Array, ""]


def sgd_init(params: Tree) -> SGDState:
    """Return the state before the first step. `params` is there only to match `adamw_init`."""
    del params
    return SGDState(jnp.zeros((), jnp.int32))


def sgd_update(
    gradients: Tree, state: SGDState, params: Tree, lr: float | Float[Array, ""]
) -> tuple[Tree, SGDState]:
    """Gradient descent with the step size lr / sqrt(t + 1), t counting steps from 0.

    Returns:
        The new parameters and state.
    """

    def update(p: Array, g: Array) -> Array:
        return p - jnp.asarray(lr, p.dtype) / jnp.sqrt(state.step.astype(p.dtype) + 1) * g

    return jax.tree.map(update, params, gradients), SGDState(state.step + 1)
