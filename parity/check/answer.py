"""What comes back from a function under check, and what is concluded from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from lm.budgets import Dtype
from parity.case import Case, Given

FailureKind = Literal["raised", "not written", "no result", "crashed", "time", "memory"]


@dataclass(frozen=True)
class Failure:
    """Why a call gave no array."""

    kind: FailureKind
    """"not written": NotImplementedError. "no result": something that is no array of numbers."""
    message: str
    """One line for the user: the exception and the line of their file, or what was returned."""


@dataclass(frozen=True)
class Answer:
    """What the user's function gave for one Given."""

    output: np.ndarray | None = None
    """In float64, in whatever shape it came. None if the call failed."""
    gradients: Mapping[str, np.ndarray | None] = field(default_factory=dict)
    """By the arrays' names. None: the output is not connected to the array. No entry: it cannot be differentiated."""
    dtype: str = ""
    """Type of the output: "float32", "bfloat16" ..."""
    framework: str = ""
    """"torch", "jax" or "numpy"."""
    changed: tuple[str, ...] = ()
    """Names of the arrays that the function changed in place."""
    notes: tuple[str, ...] = ()
    """What the child noticed: weights that were copied, a function that cannot be differentiated."""
    seconds: float = 0.0
    failure: Failure | None = None


class Ask(Protocol):
    """Call the user's function on a case of one's own."""

    def __call__(self, given: Given, cotangent: np.ndarray | None = None, dtype: Dtype = "float32") -> Answer:
        """Return the output and, if there is a cotangent, the gradients of sum(cotangent * output).

        Args:
            given: Arrays in float64, with values that `dtype` holds exactly (`lm.budgets.as_dtype`).
        """


FindingKind = Literal[
    "forward",
    "gradient",
    "answer",
    "shape",
    "type",
    "nan",
    "changed input",
    "changes between calls",
    "failure",
]


@dataclass(frozen=True)
class Finding:
    """One comparison that is over its budget, or one fault of conduct."""

    kind: FindingKind
    message: str
    """One line for the user."""
    case: Case
    dtype: Dtype
    array: str = "output"
    """What was compared: "output", or the array whose gradient it is."""
    error: float = float("nan")
    budget: float = float("nan")
    beyond: bool = False
    """Whether the case is outside the course's contract: then the finding is a note."""


class Diagnosis(Protocol):
    """Why a function is off (`parity.check.diagnose`)."""

    def lines(self) -> list[str]:
        """Return the text that is printed below the verdict, without indentation."""

    def as_json(self) -> dict[str, Any]:
        """Return the diagnosis for --json."""


Status = Literal["pass", "off", "not written"]


@dataclass(frozen=True)
class Verdict:
    """The line of one subject."""

    subject: str
    function: str
    """Name of the user's function."""
    status: Status
    errors: Mapping[str, float] = field(default_factory=dict)
    """Worst error of the "forward" and "gradient" comparisons."""
    budgets: Mapping[str, float] = field(default_factory=dict)
    """Budgets of these two."""
    dtype: Dtype = "float32"
    """Type in which the function was judged."""
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    diagnosis: Diagnosis | None = None
    seconds: float = 0.0
