"""Call optimizers and gradient clipping, in torch's way or in JAX's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from .objects import through

Gradients = Sequence[Sequence[Any]]
"""For each step, each weight's gradient or None."""


def _is_torch(array: Any) -> bool:
    return type(array).__module__.partition(".")[0] == "torch"


def _flat(arrays: Sequence[Any]) -> Any:
    if _is_torch(arrays[0]):
        import torch

        return torch.cat([array.detach().reshape(-1) for array in arrays])
    import jax.numpy as jnp

    return jnp.concatenate([array.reshape(-1) for array in arrays])


def _stack(rows: Sequence[Any]) -> Any:
    if _is_torch(rows[0]):
        import torch

        return torch.stack(list(rows))
    import jax.numpy as jnp

    return jnp.stack(rows)


def _optimized(
    make: Callable[..., Any], weights: Sequence[Any], gradients: Gradients, lrs: Sequence[float]
) -> Any:
    """Return all weights after each step of a torch optimizer, whose rate is set before each step."""
    import torch

    parameters = [torch.nn.Parameter(weight.clone()) for weight in weights]
    optimizer = make(parameters, lr=lrs[0])
    after = []
    for row, lr in zip(gradients, lrs):  # noqa: B905 (older Pythons)
        for group in optimizer.param_groups:
            group["lr"] = lr
        for parameter, gradient in zip(parameters, row):  # noqa: B905
            parameter.grad = None if gradient is None else gradient.clone()
        optimizer.step()
        after.append(_flat(parameters))
    return _stack(after)


def _class(function: Any) -> Any:
    """Return the optimizer's class: the function itself, or what it returns."""
    return function if isinstance(function, type) else function()


@through
def adamw(
    function: Any,
    weights: Sequence[Any],
    gradients: Gradients,
    betas: Sequence[float],
    eps: float,
    weight_decay: float,
    lrs: Sequence[float],
) -> Any:
    """Return all weights after each step.

    The function is an optimizer's class or returns it. Or it is one of JAX's: `adamw_update(gradients, state, params,
    lr, betas, eps, weight_decay) -> (params, state)`, beside `adamw_init(params) -> state`; or `adamw_step(weight,
    gradient, m, v, step, lr, betas, eps, weight_decay) -> (weight, m, v)`.
    """
    options = {"betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
    name = getattr(function, "__name__", "")
    if name not in ("adamw_update", "adamw_step"):
        return _optimized(lambda p, lr: _class(function)(p, lr=lr, **options), weights, gradients, lrs)
    moved = [i for i, gradient in enumerate(gradients[0]) if gradient is not None]
    weights = list(weights)
    state = _moments(function, {str(i): weights[i] for i in moved})
    after = []
    for t, (row, lr) in enumerate(zip(gradients, lrs), 1):  # noqa: B905
        if name == "adamw_update":
            given = {str(i): row[i] for i in moved}
            params = {str(i): weights[i] for i in moved}
            params, state = function(given, state, params, lr, *options.values())
            for i in moved:
                weights[i] = params[str(i)]
        else:
            for i in moved:
                m, v = state[str(i)]
                weights[i], m, v = function(weights[i], row[i], m, v, t, lr, *options.values())
                state[str(i)] = (m, v)
        after.append(_flat(weights))
    return _stack(after)


def _moments(function: Any, params: dict[str, Any]) -> Any:
    if function.__name__ == "adamw_step":
        return {name: (0 * weight, 0 * weight) for name, weight in params.items()}
    init = getattr(inspect.unwrap(function), "__globals__", {}).get("adamw_init")
    if init is None:
        raise TypeError("adamw_update needs adamw_init(params) beside it: define it in the same file")
    return init(params)


@through
def sgd(function: Any, weights: Sequence[Any], gradients: Gradients, lrs: Sequence[float]) -> Any:
    """Return all weights after each step of the course's SGD, whose step size is lr / sqrt(t + 1)."""
    return _optimized(lambda p, lr: _class(function)(p, lr=lr), weights, gradients, lrs)


@through
def clip(function: Any, gradients: Sequence[Any], max_norm: float, as_iterator: bool) -> Any:
    """Return the clipped gradients: those of torch parameters, or what the function returns.

    One of the parameters has no gradient. JAX's function is `clip_gradients(gradients, max_norm)`, of a dict of arrays,
    and returns such a dict, alone or with the norm.
    """
    if not _is_torch(gradients[0]):
        tree = {str(i): gradient for i, gradient in enumerate(gradients)}
        clipped = function(tree, max_norm)
        clipped = clipped[0] if isinstance(clipped, tuple) else clipped
        return _flat([clipped[name] for name in tree])
    import torch

    parameters = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients):  # noqa: B905
        parameter.grad = gradient.clone()
    given = [parameters[0], torch.nn.Parameter(torch.ones(2)), *parameters[1:]]
    before = _flat([parameter.grad for parameter in parameters])
    function(iter(given) if as_iterator else given, max_norm)
    after = _flat([parameter.grad for parameter in parameters])
    if as_iterator and torch.equal(before, after):
        raise TypeError(
            "an iterator such as model.parameters() is empty after the first loop over it, so nothing is clipped:"
            " begin with parameters = list(parameters)"
        )
    return after
