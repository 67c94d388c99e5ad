"""AdamW, Muon and SGD as pairs of init and update on trees of arrays."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from lm.config import AdamWForm, MuonDtype, MuonScale
from lm.muon import COEFFICIENTS, EPS, scale_factor

Tree: TypeAlias = PyTree[Float[Array, "..."]]


def update_each(update: Callable[..., tuple[Array, ...]], params: Tree, *trees: Any) -> tuple[Tree, ...]:
    """Apply `update` to each parameter with its leaves of the other trees. Return a tree of each of its results."""
    updated = jax.tree.map(update, params, *trees)
    return tuple(jax.tree.transpose(jax.tree.structure(params), None, updated))


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
    form: AdamWForm = "course",
) -> tuple[Tree, AdamWState]:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, algorithm 2), as the course writes it.

    The bias correction is folded into the step size. The form course adds epsilon to the uncorrected root, and the
    decay follows the update, by lr * weight_decay. In the form course-2026 the decay comes first. In the form torch it
    does, too, and epsilon is added to the corrected root.

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
        root = jnp.sqrt(_one_minus_power(beta2, t))
        step_size = rate * root / _one_minus_power(beta1, t)
        before = p
        if form != "course":
            p = p - rate * decay * p
        # m / (sqrt(v) / root + eps) is root m / (sqrt(v) + root eps).
        p = p - step_size * (m / (jnp.sqrt(v) + (eps * root if form == "torch" else eps)))
        if form == "course":
            p = p - rate * decay * p
        return jnp.where(apply, p, before), m, v

    decays = (
        jax.tree.map(lambda _: weight_decay, params)
        if isinstance(weight_decay, int | float)
        else weight_decay
    )
    params, m, v = update_each(update, params, gradients, state.m, state.v, decays)
    return params, AdamWState(m, v, jnp.where(apply, step, state.step))


def _one_minus_power(beta: float, t: Float[Array, ""]) -> Float[Array, ""]:
    """1 - beta^t, without the cancellation that costs float32 four digits at beta = 0.999 and t = 1."""
    return -jnp.expm1(t * math.log(beta)) if beta > 0 else jnp.ones_like(t)


class MuonState(NamedTuple):
    """The momentum, a tree like the parameters."""

    m: Tree


def muon_init(params: Tree) -> MuonState:
    """Return zero momentum for these matrices."""
    return MuonState(jax.tree.map(jnp.zeros_like, params))


def muon_update(
    gradients: Tree,
    state: MuonState,
    params: Tree,
    lr: float | Float[Array, ""],
    momentum: float = 0.95,
    weight_decay: float = 0.01,
    scale: MuonScale = "original",
    dtype: MuonDtype = "float32",
    apply: bool | Bool[Array, ""] = True,
) -> tuple[Tree, MuonState]:
    """Momentum whose update of each matrix is made orthogonal (Jordan et al., 2024, "Muon").

    The decay comes first, by lr * weight_decay. The momentum is Nesterov's.

    Args:
        scale: Factor of the orthogonal update (`lm.muon.scale_factor`).
        dtype: Type in which `orthogonalize` computes.
        apply: Nothing changes if it is false.

    Returns:
        The new parameters and state.
    """

    def update(p: Array, g: Array, m: Array) -> tuple[Array, Array]:
        rate = jnp.asarray(lr, p.dtype)
        direction, new_m = muon_momentum(g, m, momentum)
        decayed = p - rate * weight_decay * p
        new_p = decayed - rate * muon_direction(direction, scale, dtype)
        return jnp.where(apply, new_p, p), jnp.where(apply, new_m, m)

    params, m = update_each(update, params, gradients, state.m)
    return params, MuonState(m)


def muon_momentum(g: Array, m: Array, momentum: float) -> tuple[Array, Array]:
    """Return Nesterov's update, a mean of the gradient and the new momentum, and the new momentum."""
    m = m + (1 - momentum) * (g - m)
    return g + momentum * (m - g), m


def muon_direction(
    x: Float[Array, "R C"], scale: MuonScale = "original", dtype: MuonDtype = "float32"
) -> Float[Array, "R C"]:
    """Return the scaled orthogonal matrix next to x."""
    return orthogonalize(x, dtype) * scale_factor(scale, *x.shape)


def orthogonalize(x: Float[Array, "R C"], dtype: MuonDtype = "float32") -> Float[Array, "R C"]:
    """Replace the singular values of x by numbers near 1, between about 0.7 and 1.2 (Jordan et al., 2024).

    Each of five Newton-Schulz steps is the odd polynomial a s + b s^3 + c s^5 of every singular value s. Small ones
    grow fast, and none converges. Singular values that are far below the largest stay small, and zeros stay zeros.

    Args:
        dtype: Type of the products; float32 means the type of x, which is float32 or float64.
    """
    a, b, c = COEFFICIENTS
    is_tall = x.shape[0] > x.shape[1]
    X = x.mT if is_tall else x
    X = X / jnp.maximum(jnp.sqrt(jnp.square(X).sum()), EPS)
    if dtype == "bfloat16":
        X = X.astype(jnp.bfloat16)
    for _ in range(5):
        A = X @ X.mT
        X = a * X + (b * A + c * (A @ A)) @ X
    return (X.mT if is_tall else X).astype(x.dtype)


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
