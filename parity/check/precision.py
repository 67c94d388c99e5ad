"""Tell rounding from mistakes: how many bits are lost, and which function in low precision explains it."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np

from lm.budgets import EPSILON, Dtype, as_dtype
from parity.case import Given

Low = Literal["float32", "bfloat16", "float16"]
FEWEST = 20
"""Fewest elements of an error that is compared in direction."""
COSINE = 0.7
"""Least cosine between two errors, in direction, at which one explains the other. Independent errors have about 0."""


def bits_lost(error: float, dtype: Dtype) -> str:
    """Return how many of a type's bits an error takes.

    >>> bits_lost(2**-13, "float32")
    'loses 10 of its 24 bits'
    """
    bits = {"float64": 53, "float32": 24, "bfloat16": 8}[dtype]
    lost = round(math.log2(max(error, EPSILON[dtype]) / EPSILON[dtype]))
    return f"loses {min(lost, bits)} of its {bits} bits"


def round_to(x: np.ndarray, low: Low) -> np.ndarray:
    """Return the numbers nearest to x that `low` can hold, as float64."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float64) if low == "float16" else as_dtype(x, low)


ROUGH = 0.1
"""Least `roughness` that is rounding."""


class LowPrecision(np.ndarray):
    """An array of float64 whose every operation rounds its result to a lower precision."""

    low: Low
    in_turn: bool
    """Whether a sum rounds after each term, and not only at its end."""

    def __array_finalize__(self, source: Any) -> None:
        """Take over the precision of the array that this one was made from."""
        self.low = getattr(source, "low", "float32")
        self.in_turn = getattr(source, "in_turn", False)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Compute in float64, then round."""
        plain = [x.view(np.ndarray) if isinstance(x, LowPrecision) else x for x in inputs]
        if ufunc is np.add and method == "reduce" and self.in_turn:
            return self._sum(plain[0], options.get("axis", 0), options.get("keepdims", False))
        return self._rounded(getattr(ufunc, method)(*plain, **options))

    def __array_function__(self, f: Any, types: Any, args: Any, options: Any) -> Any:
        """Compute in float64, then round."""
        plain = _without_precision((args, options))
        return self._rounded(f(*plain[0], **plain[1]))

    def _rounded(self, result: Any) -> Any:
        result = np.asarray(result)
        return lowered(result, self.low, self.in_turn) if result.dtype == np.float64 else result

    def _sum(self, x: np.ndarray, axis: Any, keepdims: bool) -> Any:
        axes = tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        axes = tuple(a % x.ndim for a in axes)
        kept = [a for a in range(x.ndim) if a not in axes]
        terms = x.transpose(*axes, *kept).reshape(-1, *(x.shape[a] for a in kept))
        total = np.zeros(terms.shape[1:])
        for term in terms:
            total = round_to(total + term, self.low)
        return self._rounded(np.expand_dims(total, axes) if keepdims else total)


def _without_precision(x: Any) -> Any:
    if isinstance(x, LowPrecision):
        return x.view(np.ndarray)
    if isinstance(x, (tuple, list)):
        return type(x)(map(_without_precision, x))
    return {k: _without_precision(v) for k, v in x.items()} if isinstance(x, dict) else x


def lowered(x: np.ndarray, low: Low, in_turn: bool = False) -> LowPrecision:
    """Return x, rounded, as an array whose operations round."""
    array = round_to(np.asarray(x), low).view(LowPrecision)
    array.low, array.in_turn = low, in_turn
    return array


def _map(convert: Callable[[np.ndarray], Any], x: Any) -> Any:
    """Apply `convert` to every array of floats in an argument: an array, or a mapping of arrays."""
    if isinstance(x, np.ndarray):
        return convert(x) if x.dtype == np.float64 else x
    return {name: _map(convert, value) for name, value in x.items()} if isinstance(x, dict) else x


def in_low(f: Callable[..., Any], low: Low, how: str) -> Callable[..., Any]:
    """Return a function of the oracle as a port computes it in low precision.

    Args:
        how: "each step" rounds every result, "running sums" also after every term of a sum, "its inputs" rounds only
            the arguments, and "its result" only what it returns.
    """

    def call(*args: Any, **options: Any) -> Any:
        def convert(x: np.ndarray) -> Any:
            if how == "its result":
                return x
            return round_to(x, low) if how == "its inputs" else lowered(x, low, how == "running sums")

        result = f(*(_map(convert, x) for x in args), **{k: _map(convert, v) for k, v in options.items()})
        return _map(lambda y: round_to(y.view(np.ndarray), low), result) if how != "its inputs" else result

    return call


HOW = {
    "each step": "computing {} in {}",
    "running sums": "computing {} in {}, its sums included",
    "its inputs": "rounding the inputs of {} to {}",
    "its result": "rounding the result of {} to {}",
}


def roughness(output: Callable[[Given], np.ndarray | None], given: Given, error: float) -> float:
    """Return the second difference of a function over its first, for a change of the inputs below its error.

    A smooth function changes in proportion, so this is about the change itself. Rounding moves the output in steps as
    large as the error, so this is about 1.
    """
    rng = np.random.default_rng(0)
    moves = {name: error / 4 * rng.choice([-1, 1], a.shape) for name, a in given.arrays.items()}

    def moved(sign: int) -> np.ndarray | None:
        return output(given._replace(arrays={n: a * (1 + sign * moves[n]) for n, a in given.arrays.items()}))

    before, at, after = moved(-1), moved(0), moved(1)
    if before is None or at is None or after is None or not before.shape == at.shape == after.shape:
        return 0.0
    first, second = np.linalg.norm(after - before), np.linalg.norm(after - 2 * at + before)
    return float(second / first) if first else 1.0


def explain(
    actual: np.ndarray,
    exact: np.ndarray,
    simulate: Callable[[str, Callable[[Callable[..., Any]], Callable[..., Any]]], np.ndarray],
    functions: Sequence[str],
    lows: Iterable[Low],
) -> str:
    """Return the function in low precision whose errors are the actual ones, or are as large.

    Args:
        simulate: Return the output if a function of the oracle, by its name, is replaced by what is made of it.
        functions: Names of the functions to try.
        lows: The precisions to try.
    """
    error = (actual - exact).ravel()
    best, found = COSINE, ""
    as_large: dict[str, str] = {}
    for low, name, how in itertools.product(lows, functions, HOW):
        with np.errstate(all="ignore"):
            simulated = simulate(name, lambda f, low=low, how=how: in_low(f, low, how))  # type: ignore[misc]
        other = (np.asarray(simulated) - exact).ravel()
        norm, other_norm = float(np.linalg.norm(error)), float(np.linalg.norm(other))
        if not other_norm or not 0.4 < norm / other_norm < 2.5:
            continue
        text = HOW[how].format(f"`{name}`", low)
        cosine = float(error @ other) / norm / other_norm
        if cosine > best + 1e-6 and error.size >= FEWEST:
            best, found = cosine, f"{text} explains it"
        elif how == "each step":
            as_large.setdefault(name, f"{text} gives errors of this size")
    return found or (next(iter(as_large.values())) if len(as_large) == 1 else "")
