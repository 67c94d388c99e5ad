"""Functions that call the user's function if it takes more than arrays, or is called more than once.

`THROUGH` has those of numeric subjects (`Call.through`): each receives the user's function and the call's arguments,
and returns an array of its framework, which is compared and differentiated as usual. `HANDLERS` has those of exact
subjects (`Child.run`): each receives the user's module and arguments from JSON, and returns what JSON can hold.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

THROUGH: dict[str, Callable[..., Any]] = {}
HANDLERS: dict[str, Callable[..., Any]] = {}


def through(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function of (user's function, arguments...) to make it one of `THROUGH`."""
    THROUGH[function.__name__] = function
    return function


def handler(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function of (user's module, arguments...) to make it one of `HANDLERS`."""
    HANDLERS[function.__name__] = function
    return function


@through
def whole_model(function: Callable[..., Any], token_ids: Any, weights: Any = None) -> Any:
    """Return the logits of a model, and after them all hidden states that it gives, as one flat array.

    The function returns logits, a pair of logits and hidden states, or an object with these as `logits` and
    `hidden_states`.
    """
    result = function(token_ids) if weights is None else function(token_ids, weights)
    logits, states = getattr(result, "logits", None), getattr(result, "hidden_states", None)
    if logits is None:
        logits, states = result if isinstance(result, (tuple, list)) else (result, None)
    if tuple(logits.shape[:2]) != tuple(token_ids.shape):
        raise ValueError(f"logits of shape {tuple(logits.shape)} for token ids {tuple(token_ids.shape)}")
    flat = [array.reshape(-1) for array in [logits, *(() if states is None else states)]]
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch is not None and isinstance(logits, torch.Tensor):
        return torch.cat([array.to(logits.dtype) for array in flat])
    return (np if isinstance(logits, np.ndarray) or jax is None else jax.numpy).concatenate(flat)


@through
def schedule(function: Callable[..., float], steps: list[int], *rest: Any) -> np.ndarray:
    """Return the learning rates of these steps."""
    return np.array([float(function(step, *rest)) for step in steps])
