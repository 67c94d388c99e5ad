"""The switch between the formulas and their faster forms."""

import contextlib
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TypeVar

import torch

Formula = TypeVar("Formula", bound=Callable[..., Any])

_on = True


def is_on() -> bool:
    """Return whether fast forms are used: not if they are switched off, nor while torch.compile traces the formulas."""
    return _on and not torch.compiler.is_compiling()


def use(on: bool) -> None:
    """Use the fast forms, or only the formulas."""
    global _on
    _on = on


@contextlib.contextmanager
def used(on: bool) -> Iterator[None]:
    """Use the fast forms, or only the formulas, inside this context."""
    before = _on
    use(on)
    try:
        yield
    finally:
        use(before)


def path(form: Callable[..., Any]) -> Callable[[Formula], Formula]:
    """Take `form`, a faster implementation with the formula's signature, while fast forms are on.

    `form` returns NotImplemented for arguments that it does not support, or for which the formula is as fast.
    """

    def decorate(formula: Any) -> Any:
        @wraps(formula)
        def chosen(*args: Any, **kwargs: Any) -> Any:
            if is_on():
                result = form(*args, **kwargs)
                if result is not NotImplemented:
                    return result
            return formula(*args, **kwargs)

        return chosen

    return decorate
