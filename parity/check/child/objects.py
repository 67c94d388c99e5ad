"""Functions that call the user's function where it takes more than arrays, or is called more than once.

`THROUGH` has those of numeric subjects (`Call.through`): each receives the user's function and the call's arguments,
and returns an array of its framework, which is compared and differentiated as usual. `HANDLERS` has those of exact
subjects (`Child.run`): each receives the user's module and arguments from JSON, and returns what JSON can hold.
"""

from __future__ import annotations

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
def schedule(function: Callable[..., float], steps: list[int], *rest: Any) -> np.ndarray:
    """Return the learning rates of these steps."""
    return np.array([float(function(step, *rest)) for step in steps])
