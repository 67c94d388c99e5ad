"""A known mistake: a NumPy variant of a function of the oracle."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from parity.oracle.gradients import LEADING_AXES

Variant = TypeVar("Variant", bound=Callable[..., Any])


@dataclass(frozen=True)
class Mistake:
    """One known way to be wrong."""

    name: str
    """What the code does, in a few words: "epsilon outside the root"."""
    replaces: str
    """Name of the oracle's function or class that the variant takes the place of (`oracle.replaced`)."""
    variant: Callable[..., Any]
    """The mistake in NumPy, with the signature of what it replaces.

    It takes complex numbers, as the oracle does, because gradients come from the complex step. A detached tensor is
    `detach(x)`: the output is then right, and the gradient lacks what flows through x.
    """
    explanation: str
    """Two sentences: what the code does, and what follows from it."""
    formula: str
    """The right formula, in one line."""
    source: str
    """Paper and equation, or the course's section."""
    pitfall: str = ""
    """Heading in docs/pitfalls.md. Empty: that page does not have it."""
    accepted: bool = False
    """Whether the course accepts the variant: a function that agrees with it passes, and a note names it."""
    accepted_inside: bool = False
    """Whether the course accepts it in functions that contain this one, because nobody gives them the argument."""


REGISTRY: list[Mistake] = []
"""The mistakes of all modules that have been imported, in the order of their files."""


def mistake(
    name: str,
    replaces: str,
    *,
    formula: str,
    source: str,
    pitfall: str = "",
    accepted: bool = False,
    accepted_inside: bool = False,
) -> Callable[[Variant], Variant]:
    """Decorate a variant, whose docstring is the explanation, to add it to the catalogue."""

    def register(variant: Variant) -> Variant:
        if any(known.name == name for known in REGISTRY):
            raise ValueError(f"two mistakes are named {name!r}")
        explanation = " ".join((inspect.getdoc(variant) or "").split())
        REGISTRY.append(
            Mistake(name, replaces, variant, explanation, formula, source, pitfall, accepted, accepted_inside)
        )
        return variant

    return register


def detach(x: np.ndarray) -> np.ndarray:
    """Return x without its gradient: the complex step carries derivatives in the imaginary part."""
    return x.real


def all_axes(x: np.ndarray) -> tuple[int, ...]:
    """Return all axes of x, except that of the complex step's perturbations: the first one of complex numbers."""
    return tuple(range(int(np.iscomplexobj(x)), x.ndim))


def rank(x: np.ndarray) -> int:
    """Return the number of axes of an argument that may carry the complex step's leading axes."""
    return x.ndim - LEADING_AXES * np.iscomplexobj(x)
