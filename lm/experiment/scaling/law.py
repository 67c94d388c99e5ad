"""Power laws above a floor, fitted in log space as approach 3 of Hoffmann et al. (2022) does."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy.optimize import least_squares

DELTA = 1e-3
"""Residual of log L from which the Huber loss is linear (Hoffmann et al., 2022, section 3.3)."""

# The grid of starts: the floor's share of the mean loss, and the exponents.
_SHARES, _EXPONENTS = (0.1, 0.3, 0.5, 0.7, 0.9), (0.05, 0.15, 0.3, 0.6, 1.2)
# Minimise from this number of starts, those with the lowest objective.
_DESCENTS = 3
# Besiroglu et al. (2024) found that a loose tolerance had stopped the published fit too early.
_TOLERANCE = 1e-12
# A smaller share of E is none, and no start has a smaller one: the bound is 0.
_LEAST = 1e-9

Logs = Float64[np.ndarray, "P K"]
Values = Float64[np.ndarray, " P"]


@dataclass(frozen=True)
class Law:
    """L(x) = E + sum over k of A_k / x_k^a_k."""

    floor: float
    """E, in nats."""
    log_scales: tuple[float, ...]
    """log A_k."""
    exponents: tuple[float, ...]
    """a_k."""

    def log_loss(self, logs: Logs) -> Values:
        """Return log L, given log x."""
        with np.errstate(divide="ignore"):
            terms = np.array(self.log_scales) - logs * np.array(self.exponents)
            return np.logaddexp.reduce(
                np.column_stack([terms, np.full(len(logs), np.log(self.floor))]), axis=1
            )


def read_law(numbers: Mapping[str, dict[str, Any]]) -> Law:
    """Return the law of approach 3 from the facts of a fit, such as `facts["methods"]["law, E free"]`."""
    floor, *scales, a, b = (numbers[name]["value"] for name in ("E", "A", "B", "a", "b"))
    return Law(floor, tuple(map(math.log, scales)), (a, b))


def fit_law(logs: Logs, log_loss: Values, floor: float | None, start: Law | None = None) -> Law:
    """Minimise the sum over points of the Huber loss of the residuals of log L.

    Args:
        floor: E. If None, E is fitted, too.
        start: Law to start from. If None: the best of a grid.
    """
    centre, shift = logs.mean(axis=0), log_loss.mean()
    x, y = logs - centre, log_loss - shift
    k = x.shape[1]
    given = None if floor is None else np.log(floor) - shift

    def terms(theta: np.ndarray) -> np.ndarray:
        scaled = theta[:k] - theta[k : 2 * k] * x
        return np.column_stack([scaled, np.full(len(y), np.log(theta[2 * k]) if given is None else given)])

    def residuals(theta: np.ndarray) -> np.ndarray:
        return (np.logaddexp.reduce(terms(theta), axis=1) - y) / DELTA

    def slopes(theta: np.ndarray) -> np.ndarray:
        logs_of_terms = terms(theta)
        shares = np.exp(logs_of_terms - np.logaddexp.reduce(logs_of_terms, axis=1)[:, None])
        parts = [
            shares[:, :k],
            -shares[:, :k] * x,
            *([shares[:, k:] / theta[2 * k]] if given is None else []),
        ]
        return np.column_stack(parts) / DELTA

    def objective(theta: np.ndarray) -> float:
        size = np.abs(residuals(theta))
        return float(np.where(size < 1, size**2 / 2, size - 0.5).sum())

    if start is not None:
        share = max(start.floor * np.exp(-shift), _LEAST)
        scales = np.array(start.log_scales) - np.array(start.exponents) * centre - shift
        thetas = [np.array([*scales, *start.exponents, *([share] if given is None else [])])]
    else:
        thetas = sorted(_grid(k, given), key=objective)[:_DESCENTS]
    # E itself is bounded, not its logarithm, which would drift for thousands of steps if E is 0.
    lowest = [-np.inf] * (2 * k) + [0.0] * (given is None)
    tight = {"ftol": _TOLERANCE, "xtol": _TOLERANCE, "gtol": _TOLERANCE, "max_nfev": 1000}
    found = [
        least_squares(residuals, theta, slopes, loss="huber", x_scale="jac", bounds=(lowest, np.inf), **tight)
        for theta in thetas
    ]
    theta = min(found, key=lambda result: float(result.cost)).x
    log_scales = theta[:k] + theta[k : 2 * k] * centre + shift
    if floor is None:
        floor = float(theta[2 * k] * np.exp(shift)) if theta[2 * k] > _LEAST else 0.0
    return Law(floor, tuple(map(float, log_scales)), tuple(map(float, theta[k : 2 * k])))


def _grid(k: int, given: float | None) -> list[np.ndarray]:
    """Return the parameters of laws around a mean loss of 1: log scales, exponents and, if it is free, E."""
    shares = _SHARES if given is None else (min(float(np.exp(given)), 0.95),)
    return [
        np.array([*[np.log((1 - share) / k)] * k, *exponents, *([share] if given is None else [])])
        for share in shares
        for exponents in itertools.product(_EXPONENTS, repeat=k)
    ]
