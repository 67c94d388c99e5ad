"""What can be checked: each subject with the names and arguments by which a file may define it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.case import Case, Given, Layer


@dataclass(frozen=True)
class Array:
    """An argument that is an array of the Given, or some of its rows, or a mask's opposite."""

    name: str
    rows: tuple[int, int] | None = None
    inverted: bool = False


Arguments = dict[str, Any]
"""Arguments by parameter, in order: plain values, `Array`s, and dicts and lists of these."""


def is_of_course(function: str) -> bool:
    """Whether a function's name is one of the course's."""
    return function.startswith(("run_", "get_"))


@dataclass(frozen=True)
class Call:
    """A way to define a subject: a function's name and its arguments.

    Two calls of one name, such as the course's of 2024 and 2025, are told apart by their parameters.
    """

    function: str
    arguments: Callable[[Given], Arguments]
    year: int = 2025
    """Of the course whose adapter functions have this one: 2024, or 2025 and later."""
    through: str = ""
    """Name of the function of `child.objects` that calls the user's function. Empty: the child calls it directly."""

    @property
    def of_course(self) -> bool:
        """Whether the name is one of the course's."""
        return is_of_course(self.function)


@dataclass(frozen=True)
class Subject:
    """One thing that can be checked."""

    name: str
    """Key in `parity.layers.LAYERS`, if that has the subject."""
    calls: tuple[Call, ...]
    layer: Layer
    """How the arguments are drawn, and the oracle that computes the right answer from them."""
    cases: tuple[Case, ...]
    """In the course's contract: few shapes, whose sizes differ."""
    beyond: tuple[Case, ...] = ()
    """Outside the contract: what they find is a note."""
    round: tuple[Case, ...] = ()
    """Cases for a function that refuses the sizes of `cases`, because its d_ff must be a multiple of 64."""

    def given(self, case: Case, seed: int = 0) -> Given:
        """Draw the arguments of a case; another seed gives fresh ones."""
        return self.layer.draw(np.random.default_rng((case.seed, seed)), case)
