"""Power laws above a floor, fitted in log space as approach 3 of Hoffmann et al. (2022) does."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.optimize import least_squares

DELTA = 1e-3
"""Residual of log L from which the Huber loss is linear (Hoffmann et al., 2022, section 3.3)."""

# The grid of starts: the floor's share of the mean loss, and the exponents.
_SHARES, _EXPONENTS = (0.1, 0.3, 0.5, 0.7, 0.9), (0.05, 0.15, 0.3, 0.6, 1.2)
# Minimise from this number of starts, those with the lowest objective.
_DESCENTS = 6
# Besiroglu et al. (2024) found that a loose tolerance had stopped the published fit too early.
_TOLERANCE = 1e-12

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


def fit_law(logs: Logs, log_loss: Values, floor: float | None, starts: Sequence[Law] = ()) -> Law:
    """Minimise the sum over points of the Huber loss of the residuals of log L.

    Args:
        floor: E. If None, E is fitted, too.
        starts: Laws to start from. If empty: the best of a grid.
    """
    centre, shift = logs.mean(axis=0), log_loss.mean()
    x, y = logs - centre, log_loss - shift
    k = x.shape[1]
    given = None if floor is None else np.log(floor) - shift

    def terms(theta: np.ndarray) -> np.ndarray:
        scaled = theta[:k] - theta[k : 2 * k] * x
        return np.column_stack([scaled, np.full(len(y), theta[2 * k] if given is None else given)])

    def residuals(theta: np.ndarray) -> np.ndarray:
        return (np.logaddexp.reduce(terms(theta), axis=1) - y) / DELTA

    def slopes(theta: np.ndarray) -> np.ndarray:
        logs_of_terms = terms(theta)
        shares = np.exp(logs_of_terms - np.logaddexp.reduce(logs_of_terms, axis=1)[:, None])
        parts = [shares[:, :k], -shares[:, :k] * x, *([shares[:, k:]] if given is None else [])]
        return np.column_stack(parts) / DELTA

    def objective(theta: np.ndarray) -> float:
        size = np.abs(residuals(theta))
        return float(np.where(size < 1, size**2 / 2, size - 0.5).sum())

    if starts:
        thetas = [
            np.array(
                [
                    *(np.array(law.log_scales) - np.array(law.exponents) * centre - shift),
                    *law.exponents,
                    *([np.log(law.floor) - shift] if given is None else []),
                ]
            )
            for law in starts
        ]
    else:
        thetas = sorted(_grid(k, given), key=objective)[:_DESCENTS]
    tight = {"ftol": _TOLERANCE, "xtol": _TOLERANCE, "gtol": _TOLERANCE, "max_nfev": 2000}
    found = [
        least_squares(residuals, theta, slopes, loss="huber", x_scale="jac", **tight) for theta in thetas
    ]
    theta = min(found, key=lambda result: float(result.cost)).x
    scales = theta[:k] + theta[k : 2 * k] * centre + shift
    return Law(
        float(np.exp(theta[2 * k] + shift)) if floor is None else floor,
        tuple(map(float, scales)),
        tuple(map(float, theta[k : 2 * k])),
    )


def _grid(k: int, given: float | None) -> list[np.ndarray]:
    """Return the parameters of laws around a mean loss of 1: log scales, exponents and, if it is free, log E."""
    shares = _SHARES if given is None else (min(float(np.exp(given)), 0.95),)
    return [
        np.array([*[np.log((1 - share) / k)] * k, *exponents, *([np.log(share)] if given is None else [])])
        for share in shares
        for exponents in itertools.product(_EXPONENTS, repeat=k)
    ]
