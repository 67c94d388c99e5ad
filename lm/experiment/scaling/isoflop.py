"""Approach 2 of Hoffmann et al. (2022): the lowest point of each budget's parabola, and power laws through them."""

from dataclasses import dataclass

import numpy as np

from lm.experiment.scaling.law import Law, Values, fit_law

# Budgets that differ by less than this share are one budget: a run takes a whole number of steps.
_SAME = 0.05
FEWEST_SIZES = 3
"""Number of sizes that a parabola needs."""


@dataclass(frozen=True)
class Optima:
    """The best size of some budgets."""

    log_flops: Values
    log_parameters: Values
    loss: Values

    def power(self) -> tuple[float, float]:
        """Return slope and intercept of log N over log C; not a number if there are fewer than two budgets."""
        if len(self.log_flops) < 2:
            return np.nan, np.nan
        slope, intercept = np.polyfit(self.log_flops, self.log_parameters, 1)
        return float(slope), float(intercept)

    def loss_law(self, floor: float | None, start: Law | None = None) -> Law | None:
        """Fit L = E + k / C^g; None if there are fewer budgets than unknowns."""
        if len(self.log_flops) < (3 if floor is None else 2):
            return None
        return fit_law(self.log_flops[:, None], np.log(self.loss), floor, start)


def budget_groups(flops: Values) -> list[np.ndarray]:
    """Return the indices of the points of each budget, by rising budget."""
    groups: list[list[int]] = []
    for i in map(int, np.argsort(flops, kind="stable")):
        if groups and flops[i] < flops[groups[-1][0]] * (1 + _SAME):
            groups[-1].append(i)
        else:
            groups.append([i])
    return [np.array(group) for group in groups]


def parabola(log_parameters: Values, loss: Values) -> tuple[float, float, float] | None:
    """Return the curvature and the lowest point (log N, L) of L = L0 + c (log N - log N0)^2, fitted by least squares.

    Returns:
        None if the parabola has no lowest point above 0, or fewer than three sizes fix it.
    """
    if len(set(log_parameters)) < FEWEST_SIZES:
        return None
    centre = log_parameters.mean()
    curvature, slope, height = np.polyfit(log_parameters - centre, loss, 2)
    if curvature <= 0:
        return None
    lowest = height - slope**2 / (4 * curvature)
    return (float(curvature), float(centre - slope / (2 * curvature)), float(lowest)) if lowest > 0 else None
