"""Faults in jax_impl/optimizer.py."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from tests.faults.fault import MUON, OPTIMIZER, ORACLE_RUN, fault, inside

Betas = tuple[float, float]


def _steps(state: Any, params: Any) -> Array:
    """Return the number of the next step, counted from 1, in the type of the weights."""
    return (state.step + 1).astype(jax.tree.leaves(params)[0].dtype)


@fault("decay by the bias-corrected rate", "jax_impl.optimizer.adamw_update", OPTIMIZER)
def _(original: Any) -> Any:
    """Give the learning rate its bias correction before the update, so that the decay has it, too."""
    uncorrected = inside(
        "jax_impl.optimizer._one_minus_power", lambda _: lambda beta, t: jnp.ones_like(t), original
    )

    def broken(
        gradients: Any,
        state: Any,
        params: Any,
        lr: Any,
        betas: Betas = (0.9, 0.999),
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        from jax_impl.optimizer import _one_minus_power

        first, second = (_one_minus_power(beta, _steps(state, params)) for beta in betas)
        step_size = lr * jnp.sqrt(second) / first
        return uncorrected(gradients, state, params, step_size, betas, *args, **kwargs)

    return broken


@fault("the first moment is a sum", "jax_impl.optimizer.adamw_update", OPTIMIZER)
def _(original: Any) -> Any:
    """Store m / (1 - beta1) for m, and take it for m."""

    def broken(
        gradients: Any,
        state: Any,
        params: Any,
        lr: Any,
        betas: Betas = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Any = 0.01,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        share = 1 - betas[0]
        mean = state._replace(m=jax.tree.map(lambda m: m * share, state.m))
        decay = jax.tree.map(lambda d: d * share, weight_decay)
        params, mean = original(gradients, mean, params, lr / share, betas, eps, decay, *args, **kwargs)
        return params, mean._replace(m=jax.tree.map(lambda m: m / share, mean.m))

    return broken


@fault("stale bias correction", "jax_impl.optimizer._one_minus_power", OPTIMIZER)
def _(original: Any) -> Any:
    return lambda beta, t: original(beta, jnp.maximum(t - 1, 1))


@fault("bias correction by cancellation", "jax_impl.optimizer._one_minus_power", OPTIMIZER)
def _(original: Any) -> Any:
    return lambda beta, t: 1 - beta**t


def _with_form(original: Any, of: dict[str, Any]) -> Any:
    """Return AdamW with other forms for these."""

    def broken(*args: Any, form: Any = "course", **kwargs: Any) -> Any:
        return original(*args, form=of.get(form, form), **kwargs)

    return broken


@fault("JAX's AdamW of the course decays first", "jax_impl.optimizer.adamw_update", OPTIMIZER)
def _(original: Any) -> Any:
    return _with_form(original, {"course": "course-2026"})


@fault(
    "JAX adds the form torch's epsilon to the uncorrected root", "jax_impl.optimizer.adamw_update", OPTIMIZER
)
def _(original: Any) -> Any:
    return _with_form(original, {"torch": "course-2026"})


@fault("JAX's Muon does not decay", "jax_impl.optimizer.muon_update", MUON)
def _(original: Any) -> Any:
    def broken(*args: Any, weight_decay: float = 0.01, **kwargs: Any) -> Any:
        return original(*args, weight_decay=0 * weight_decay, **kwargs)

    return broken


@fault("JAX's Muon joins query, key and value", "jax_impl.optimizer.muon_update", ORACLE_RUN)
def _(original: Any) -> Any:
    """Take the three matrices of each attention for one."""
    parts = ("q_proj", "k_proj", "v_proj")

    def change(tree: Any, attention: Callable[[Any], Any]) -> Any:
        layers = [layer | {"attn": attention(layer["attn"])} for layer in tree["layers"]]
        return tree | {"layers": layers}

    def join(attn: Any) -> Any:
        rows = jnp.concatenate([attn[part]["weight"] for part in parts])
        return {"joined": rows, "output_proj": attn["output_proj"]}

    def split(attn: Any) -> Any:
        thirds = jnp.split(attn["joined"], 3)
        rows = {part: {"weight": third} for part, third in zip(parts, thirds, strict=True)}
        return rows | {"output_proj": attn["output_proj"]}

    def broken(gradients: Any, state: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        gradients, m, params = (change(tree, join) for tree in (gradients, state.m, params))
        params, state = original(gradients, state._replace(m=m), params, *args, **kwargs)
        return change(params, split), state._replace(m=change(state.m, split))

    return broken


@fault("SGD divides by steps, not their root", "jax_impl.optimizer.sgd_update", OPTIMIZER)
def _(original: Any) -> Any:
    def broken(gradients: Any, state: Any, params: Any, lr: Any) -> Any:
        return original(gradients, state, params, lr / jnp.sqrt(_steps(state, params)))

    return broken
