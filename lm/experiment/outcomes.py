"""Outcomes of training runs, and tables of them."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lm.tables import markdown_table

DIVERGED_ABOVE = 1.1
"""A run has diverged if its loss ends above this multiple of ln V. Every run begins near ln V."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a training run."""

    name: str
    """Its folder in runs/."""
    learning_rate: float
    batch_size: int
    seed: int
    parameters: int
    steps: int
    """Steps that the run took. A run whose loss is not finite stops early."""
    tokens: int
    seconds: float
    """Wall time, evaluations included."""
    uniform_loss: float
    """Loss of equal probabilities for all tokens, ln V."""
    val_loss: float | None
    """Last validation loss; None if it is not finite or was never computed."""
    highest_loss: float | None
    """Highest training loss of the run; None if none was finite."""
    not_finite_at: int | None
    """First step whose loss or gradient norm was not finite."""

    @property
    def diverged(self) -> bool:
        """Whether a step was not finite, or the loss ends well above that of chance."""
        limit = DIVERGED_ABOVE * self.uniform_loss
        return self.not_finite_at is not None or self.val_loss is None or self.val_loss > limit

    @property
    def loss(self) -> float:
        """Validation loss; infinite if the run diverged."""
        return math.inf if self.diverged or self.val_loss is None else self.val_loss

    @property
    def fate(self) -> str:
        """The validation loss in words, or how the run diverged."""
        if self.not_finite_at is not None:
            return f"diverged: not finite at step {self.not_finite_at}"
        if self.diverged:
            return "diverged: " + ("not finite" if self.val_loss is None else f"{self.val_loss:,.1f}")
        return f"{self.loss:.4f}"

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds if self.seconds else 0.0


def as_facts(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return outcomes as JSON, which `outcomes_of` reads."""
    return [asdict(outcome) for outcome in outcomes]


def outcomes_of(facts: Sequence[dict[str, Any]]) -> list[Outcome]:
    """Read the outcomes that `as_facts` wrote."""
    return [Outcome(**fact) for fact in facts]


def best_of(outcomes: Sequence[Outcome]) -> Outcome | None:
    """Return the outcome with the lowest validation loss, or None if all diverged."""
    best = min(outcomes, key=lambda outcome: outcome.loss, default=None)
    return None if best is None or best.diverged else best


def mean_loss(outcomes: Sequence[Outcome]) -> float:
    """Return the mean validation loss of runs; infinite if one diverged."""
    return statistics.fmean(outcome.loss for outcome in outcomes)


def spread(outcomes: Sequence[Outcome]) -> float:
    """Return the highest minus the lowest validation loss of runs; not a number if all diverged."""
    losses = [outcome.loss for outcome in outcomes]
    return max(losses) - min(losses)


def runs_table(groups: Mapping[str, Sequence[Outcome]]) -> str:
    """Return a table with a row for each run, those of each group under its label."""
    head = (
        *("run", "learning rate", "batch", "seed", "steps", "parameters"),
        *("validation loss", "highest training loss", "seconds", "tokens/s"),
    )
    rows = [
        [
            label,
            f"{o.learning_rate:g}",
            str(o.batch_size),
            str(o.seed),
            f"{o.steps:,}",
            f"{o.parameters:,}",
            o.fate,
            "-" if o.highest_loss is None else f"{o.highest_loss:,.4f}",
            f"{o.seconds:.1f}",
            f"{o.speed:,.0f}",
        ]
        for label, outcomes in groups.items()
        for o in outcomes
    ]
    return markdown_table(head, rows)


def seeds_table(groups: Mapping[str, Sequence[Outcome]]) -> str:
    """Return a table of runs that differ only in their seed, a row for each group.

    The last column compares each mean with that of the first group.
    """
    head = ("", "learning rate", "seeds", "diverged", "mean loss", "lowest to highest", "difference")
    rows, first = [], None
    for label, outcomes in groups.items():
        losses = [o.loss for o in outcomes if not o.diverged]
        if not losses:
            rows.append([label, "-", str(len(outcomes)), str(len(outcomes)), "-", "-", "-"])
            continue
        mean = statistics.fmean(losses)
        first = mean if first is None else first
        rows.append(
            [
                label,
                f"{outcomes[0].learning_rate:g}",
                str(len(outcomes)),
                str(len(outcomes) - len(losses)),
                f"{mean:.4f}",
                f"{max(losses) - min(losses):.4f}" if len(losses) > 1 else "-",
                f"{mean - first:+.4f}",
            ]
        )
    return markdown_table(head, rows)
