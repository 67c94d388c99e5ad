"""Points of a scaling law: the size, the tokens, the FLOPs and the loss of training runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.files import read_json
from tokenizer.errors import InputError

FLOPS_PER_PRODUCT = 6
"""FLOPs per parameter and token: 2 forward and 4 backward (Kaplan et al., 2020)."""

USABLE = "a number from 1e-40 to 1e40"
"""Values that points may have. Larger and smaller numbers would overflow."""

_FORM = '[{"parameters": N, "compute_budget": FLOPs, "final_loss": nats}, ...]'


@dataclass(frozen=True, order=True)
class Point:
    """A training run. Points have an order, so that a fit does not depend on the order of their list."""

    flops: float
    """Training FLOPs."""
    parameters: float
    """Number of parameters, counted so that the FLOPs are about 6 x parameters x tokens."""
    tokens: float
    """Number of training tokens."""
    loss: float
    """Final loss in nats per token."""
    seed: int = 0


def read_points(path: Path) -> list[Point]:
    """Read points in the form of the course's isoflops file, a JSON list of runs.

    A run has the keys parameters, compute_budget and final_loss. It may have the key tokens. Without that key, the
    tokens are FLOPs / (6 parameters). Other keys are ignored.

    Raises:
        InputError: the file cannot be read, or a run lacks a key or has a value that is not usable.
    """
    mend = f"write a list such as {_FORM}"
    runs = read_json(path, mend)
    if not isinstance(runs, list):
        raise InputError(f"{path}: not a list of runs; {mend}")
    return [_point(run, f"{path}: run {i}", mend) for i, run in enumerate(runs)]


def _point(run: Any, name: str, mend: str) -> Point:
    if not isinstance(run, dict):
        raise InputError(f"{name} (counted from 0) is not an object; {mend}")
    parameters, flops, loss = (
        _number(run, key, name, mend) for key in ("parameters", "compute_budget", "final_loss")
    )
    derived = flops / (FLOPS_PER_PRODUCT * parameters)
    return Point(flops, parameters, _number(run, "tokens", name, mend) if "tokens" in run else derived, loss)


def _number(run: dict[str, Any], key: str, name: str, mend: str) -> float:
    if key not in run:
        raise InputError(f"{name} (counted from 0) has no {key}; {mend}")
    value = run[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not is_usable(value):
        raise InputError(f"{name} (counted from 0): {key} is {value!r}; give {USABLE}")
    return float(value)


def is_usable(value: float) -> bool:
    """Return whether a point may have this value."""
    return 1e-40 <= value <= 1e40


def check_budgets(budgets: Sequence[float]) -> None:
    """Refuse budgets to predict that are not numbers above 0."""
    for budget in budgets:
        if not is_usable(budget):
            raise InputError(f"predict: {budget} is not {USABLE}; give FLOPs, such as 1e23")
