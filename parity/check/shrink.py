"""The smallest case in which a function fails, as NumPy code to paste into a test."""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lm.budgets import Dtype
from parity import oracle
from parity.case import Arrays, Case, Given
from parity.check.answer import Ask
from parity.check.subjects import Array, Call, Subject
from parity.check.variants import Asked, Mistakes, budget, distance, fits, rounded
from tokenizer.errors import InputError

SECONDS = 6.0
"""Time after which the search for a slow function's case ends with what it has."""
CLEAR = 30.0
"""Least error of the smallest case, in budgets: then a few digits show it."""
SHOWN = 8
"""Most numbers of a result that the code shows."""
WRITTEN = 24
"""Most numbers of all arrays together that the code writes out. More come from a generator with a seed."""
WIDTH = 104


Values = Callable[[Arrays], Arrays]
"""Return other numbers for a case's arrays."""


@dataclass(frozen=True)
class Failing:
    """A case that fails, and what fails in it."""

    given: Given
    what: str
    """"output", or the array whose gradient is off."""
    actual: np.ndarray
    exact: np.ndarray


class Shrink:
    """The search for a function's smallest failing case."""

    def __init__(self, subject: Subject, ask: Ask, dtype: Dtype, mistakes: Mistakes) -> None:
        self.subject, self.ask, self.dtype, self.mistakes = subject, ask, dtype, mistakes
        self.end = time.monotonic() + SECONDS

    def smallest(self) -> Failing | None:
        """Return the failing case with the smallest sizes and the fewest digits that was found."""
        for cases, clear, values in itertools.product(
            (self.subject.cases, self.subject.beyond), (CLEAR, 3.0), VALUES
        ):
            for case in _small_first(cases):
                if time.monotonic() > self.end:
                    return None
                found = self._try(case, values, clear)
                if found is not None:
                    return self._fewer_digits(self._smaller_shape(case, found, values, clear), clear)
        return None

    def _try(self, case: Case, values: Values, clear: float) -> Failing | None:
        """Return what fails in a case by more than `clear` budgets."""
        try:
            given = self.subject.given(case, seed=2)
            return self.failing(given._replace(arrays=values(given.arrays)), clear)
        except (ValueError, IndexError, ZeroDivisionError, AssertionError, InputError):
            return None  # sizes that do not go together

    def failing(self, given: Given, clear: float) -> Failing | None:
        """Return what fails in a case by more than `clear` budgets, the output before any gradient."""
        given = rounded(given, self.dtype)
        with np.errstate(all="ignore"):
            exact = np.asarray(self.subject.layer.oracle(given))
        cotangent = (1.0 + np.arange(exact.size) % 3).reshape(exact.shape)
        wanted = cotangent if self.subject.layer.differentiable else None
        answer = self.ask(given, wanted, dtype=self.dtype)
        if answer.output is None or answer.output.shape != exact.shape or not np.isfinite(exact).all():
            return None
        asked = Asked(given, cotangent, answer, self.dtype)
        if self.mistakes and not fits(self.subject, self.mistakes, asked):
            return None  # it fails for another reason
        if distance(answer.output, exact) > clear * budget(self.subject, self.dtype, gradient=False):
            return Failing(given, "output", answer.output, exact)
        for name, gradient in answer.gradients.items():
            if gradient is None or given.arrays[name].size > 1024:
                continue
            right = self._gradient(given, cotangent, name)
            flow = float(np.linalg.norm(cotangent))
            off = float(np.linalg.norm(gradient - right)) if gradient.shape == right.shape else math.inf
            if off > clear * budget(self.subject, self.dtype, gradient=True) * max(
                float(np.linalg.norm(right)), flow
            ):
                return Failing(given, name, gradient, right)
        return None

    def _gradient(self, given: Given, cotangent: np.ndarray, name: str) -> np.ndarray:
        def output(arrays: Any) -> np.ndarray:
            return self.subject.layer.oracle(given._replace(arrays={**given.arrays, **arrays}))

        return oracle.gradient(output, {name: given.arrays[name]}, cotangent)[name]

    def _smaller_shape(self, case: Case, found: Failing, values: Values, clear: float) -> Failing:
        """Return the failing case with each size as small as it may be: from 1 on, the last from 2 on."""
        changed = True
        while changed:
            changed = False
            for axis, size in enumerate(case.shape):
                for smaller in range(1 if axis < len(case.shape) - 1 else 2, size):
                    if time.monotonic() > self.end:
                        return found
                    shape = (*case.shape[:axis], smaller, *case.shape[axis + 1 :])
                    other = self._try(replace(case, shape=shape), values, clear)
                    if other is not None and _fails_equally(other, found):
                        case, found, changed = replace(case, shape=shape), other, True
                        break
        return found

    def _fewer_digits(self, found: Failing, clear: float) -> Failing:
        """Return the case with numbers of fewer digits, if they are written out and it still fails."""
        arrays = found.given.arrays
        if _total(arrays) > WRITTEN:
            return found
        for digits in (1, 2, 4, 8):
            rough = {name: np.round(a * digits) / digits for name, a in arrays.items()}
            if any(not r.all() or len(np.unique(r)) < len(np.unique(arrays[n])) for n, r in rough.items()):
                continue  # a 0, or two equal numbers, may hide something
            simpler = self.failing(found.given._replace(arrays=rough), clear)
            if simpler is not None and _fails_equally(simpler, found):
                return simpler
        return found


def _small_first(cases: Sequence[Case]) -> list[Case]:
    """Return the cases, the smallest first. Optimizers have cases without a shape: they take (steps, size), too."""
    small = [replace(case, shape=shape) for shape in ((1, 2), (2, 2)) for case in cases if not case.shape]
    return small + sorted(cases, key=lambda case: math.prod(case.shape))


def _fails_equally(a: Failing, b: Failing) -> bool:
    """Whether two cases fail in the same array, and both with numbers or both with NaN."""
    return a.what == b.what and np.isfinite(a.actual).all() == np.isfinite(b.actual).all()


def _total(arrays: Arrays) -> int:
    return sum(a.size for a in arrays.values())


def _eighths(arrays: Arrays) -> Arrays:
    rng = np.random.default_rng(0)
    return {name: (2 * rng.integers(-6, 6, a.shape) + 1) / 8 for name, a in arrays.items()}


def _normal(arrays: Arrays) -> Arrays:
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(a.shape).astype(np.float32).astype(np.float64) for name, a in arrays.items()
    }


def _drawn(arrays: Arrays) -> Arrays:
    """Return the arrays with three digits, if they are few enough to be written out."""
    if _total(arrays) > WRITTEN:
        raise ValueError("too many numbers")
    return {
        name: np.array([float(f"{v:.3g}") for v in a.ravel()]).reshape(a.shape) for name, a in arrays.items()
    }


VALUES: tuple[Values, ...] = (_eighths, _drawn, _normal)
GENERATORS = {
    "(2 * rng.integers(-6, 6, shape) + 1) / 8": _eighths,
    "rng.standard_normal(shape).astype(np.float32)": _normal,
}


def smallest_case(
    subject: Subject, ask: Ask, dtype: Dtype, call: Call | None = None, mistakes: Mistakes = ()
) -> str:
    """Return the smallest failing case as code of at most 12 lines; nothing if none was found.

    The code ends with the exact values, and a comment with what the function gave.

    Args:
        call: How the file defines the function. By default: the first way.
        mistakes: Those that explain the function, if they are known: a case that fails for another reason is not taken.
    """
    found = Shrink(subject, ask, dtype, mistakes).smallest()
    return "" if found is None else "\n".join(write(found, call or subject.calls[0]))


def write(found: Failing, call: Call) -> list[str]:
    """Return the code of a failing case."""
    arguments, arrays = call.arguments(found.given), found.given.arrays
    lines, names = _arrays(arrays)
    used = _names(arguments)
    for name, array in found.given.constants.items():
        names[name] = _variable(name)
        if name in used:
            lines += _assign(names[name], np.asarray(array))
    written = ", ".join(f"{k}={_argument(v, names)}" for k, v in arguments.items())
    if call.through:
        lines += _wrapped(f"# {call.function} with {written}")
    else:
        lines += _wrapped(f"actual = {call.function}({written})")
    if found.what == "output":
        lines += _assign("expected", found.exact, SHOWN)
        lines += ["# It gave: " + _numbers(found.actual.ravel()[:SHOWN])]
    else:
        cotangent = "(1 + np.arange(actual.size) % 3).reshape(actual.shape)"
        lines += [f"# The gradient of (actual * {cotangent}).sum() with respect to {names[found.what]}:"]
        lines += _assign("expected", found.exact, SHOWN)
        lines += ["# It gave: " + _numbers(found.actual.ravel()[:SHOWN])]
    return lines


def _arrays(arrays: Arrays) -> tuple[list[str], dict[str, str]]:
    """Return the code that makes the arrays, and the expression for each of them."""
    if _total(arrays) <= WRITTEN:
        names = {name: _variable(name) for name in arrays}
        return [line for name, array in arrays.items() for line in _assign(names[name], array)], names
    shapes = ", ".join(f"{name!r}: {a.shape}" for name, a in arrays.items())
    generator = next(
        text
        for text, f in GENERATORS.items()
        if all(np.array_equal(f(arrays)[name], arrays[name]) for name in arrays)
    )
    lines = ["rng = np.random.default_rng(0)", *_wrapped(f"shapes = {{{shapes}}}")]
    lines.append(f"arrays = {{name: {generator} for name, shape in shapes.items()}}")
    return lines, {name: f'arrays["{name}"]' for name in arrays}


def _variable(name: str) -> str:
    """Return an array's name as a variable.

    >>> _variable("w1.weight"), _variable("0.a.gradient")
    ('w1_weight', 'a_gradient_0')
    """
    first, *rest = name.split(".")
    return "_".join([*rest, first] if first.isdigit() else [first, *rest])


def _names(value: Any) -> set[str]:
    """Return the names of the arrays in an argument."""
    if isinstance(value, Array):
        return {value.name}
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return {name for v in inner for name in _names(v)}


def _argument(value: Any, names: dict[str, str]) -> str:
    if isinstance(value, Array):
        rows = f"[{value.rows[0]}:{value.rows[1]}]" if value.rows else ""
        return ("~" if value.inverted else "") + names[value.name] + rows
    if isinstance(value, dict):
        if all(v == Array(k) for k, v in value.items()) and any("[" in names[k] for k in value):
            return "arrays"
        return "{" + ", ".join(f"{k!r}: {_argument(v, names)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        inner = ", ".join(_argument(v, names) for v in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    return repr(value)


def _assign(name: str, array: np.ndarray, most: int = 10**9) -> list[str]:
    if array.size > most:
        return _wrapped(
            f"{name} = np.array({_numbers(array.ravel()[:most])})  # the first of ({name}).ravel()"
        )
    return _wrapped(f"{name} = np.array({_numbers(array)})")


def _numbers(array: np.ndarray) -> str:
    if array.dtype == bool or np.issubdtype(array.dtype, np.integer):
        return str(array.tolist())

    def short(value: Any) -> Any:
        return [short(v) for v in value] if isinstance(value, list) else float(f"{value:.7g}")

    return str(short(array.tolist())).replace("nan", "np.nan").replace("inf", "np.inf")


def _wrapped(line: str) -> list[str]:
    """Break a long line after commas within its brackets."""
    lines, comment = [], "# " if line.startswith("# ") else ""
    while len(line) > WIDTH and ", " in line[20:WIDTH]:
        cut = line.rindex(", ", 20, WIDTH) + 1
        lines.append(line[:cut])
        line = (comment or "    ") + line[cut + 1 :]
    return [*lines, line]
