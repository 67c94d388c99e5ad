"""Points as arrays, and bootstrap samples of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lm.experiment.scaling import isoflop
from lm.experiment.scaling.law import Logs, Values
from lm.experiment.scaling.points import Point
from lm.rng import integers, philox


@dataclass(frozen=True)
class Sample:
    """Points as arrays, and the groups that a bootstrap draws from."""

    log_parameters: Values
    log_tokens: Values
    log_flops: Values
    loss: Values
    budgets: list[np.ndarray]
    """Indices of the points of each budget with enough sizes for a parabola."""
    others: np.ndarray
    """Indices of the other points."""
    flops_coefficient: float
    flops_exponent: float
    """FLOPs = coefficient x N^exponent x D."""

    def logs(self, rows: np.ndarray) -> Logs:
        """Return log N and log D of some points."""
        return np.column_stack([self.log_parameters[rows], self.log_tokens[rows]])

    def log_tokens_at(self, log_flops: float, log_parameters: float) -> float:
        """Return log D of a budget and a size."""
        return log_flops - math.log(self.flops_coefficient) - self.flops_exponent * log_parameters

    def draw(self, seed: int, index: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Draw as many points as there are, with replacement, from each budget. The design of the grid stays.

        Returns:
            Indices of all points that were drawn, and those of each budget.
        """
        bits = philox(seed, "scaling bootstrap", index).random_raw(len(self.loss))
        drawn, first = [], 0
        for group in (*self.budgets, self.others):
            if len(group):
                drawn.append(group[integers(bits[first : first + len(group)], len(group)).astype(int)])
                first += len(group)
        return np.concatenate(drawn), drawn[: len(self.budgets)]


def as_sample(points: Sequence[Point]) -> Sample:
    """Return points as a sample. The rule of FLOPs is a line through log(FLOPs / D) over log N."""
    flops, parameters, tokens, loss = np.array([(p.flops, p.parameters, p.tokens, p.loss) for p in points]).T
    budgets = [
        group for group in isoflop.budget_groups(flops) if len(set(parameters[group])) >= isoflop.FEWEST_SIZES
    ]
    grouped = np.concatenate(budgets) if budgets else np.array([], dtype=int)
    exponent, intercept = np.polyfit(np.log(parameters), np.log(flops / tokens), 1)
    return Sample(
        np.log(parameters),
        np.log(tokens),
        np.log(flops),
        loss,
        budgets,
        np.setdiff1d(np.arange(len(points)), grouped),
        math.exp(intercept),
        float(exponent),
    )
