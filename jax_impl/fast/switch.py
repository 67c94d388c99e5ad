"""One switch for all faster forms."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Formula = TypeVar("Formula", bound=Callable[..., Any])

_on = True


def path(form: Callable[..., Any]) -> Callable[[Formula], Formula]:
    """Decorate a formula: take `form`, a faster implementation with the formula's signature, while fast forms are on.

    `form` returns NotImplemented for arguments for which the formula is as fast, or which `form` does not support.
    The switch is read when a function is traced: a program that `jax.jit` has traced keeps its forms.
    """

    def decorate(formula: Formula) -> Formula:
        @functools.wraps(formula)
        def choose(*args: Any, **kwargs: Any) -> Any:
            result = form(*args, **kwargs) if _on else NotImplemented
            return formula(*args, **kwargs) if result is NotImplemented else result

        return choose  # type: ignore[return-value]

    return decorate


def use(on: bool) -> None:
    """Turn all fast forms on or off."""
    global _on
    _on = on


@contextlib.contextmanager
def used(on: bool) -> Iterator[None]:
    """Turn all fast forms on or off inside this context."""
    before = _on
    use(on)
    try:
        yield
    finally:
        use(before)


def is_on() -> bool:
    """Return whether fast forms are on."""
    return _on
