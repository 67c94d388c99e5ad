"""What came of training runs, and what of it chance can explain."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

# A run that ends so far above the loss of guessing all tokens alike, near which every run begins, has diverged.
DIVERGED_ABOVE = 1.1


@dataclass(frozen=True)
class Outcome:
    """What came of a training run."""

    name: str
    """Its folder below runs/."""
    learning_rate: float
    batch_size: int
    seed: int
    parameters: int
    steps: int
    """Steps it took; fewer than it was to take where it was not finite."""
    tokens: int
    seconds: float
    """Evaluations included."""
    uniform_loss: float
    """The loss of guessing all tokens alike, ln V."""
    val_loss: float | None
    """The last; None where it is not finite, or training did not come to it."""
    highest_loss: float | None
    """The highest training loss on the way; None where none was finite."""
    not_finite_at: int | None
    """The first step whose loss or gradient norm was not finite."""

    @property
    def diverged(self) -> bool:
        """Whether a step was not finite, or the loss ends well above where it began."""
        return self.not_finite_at is not None or self.val_loss is None or self.val_loss > self._limit

    @property
    def unstable(self) -> bool:
        """Whether the training loss rose well above where it began, and came down again."""
        return not self.diverged and (self.highest_loss or 0.0) > self._limit

    @property
    def _limit(self) -> float:
        return DIVERGED_ABOVE * self.uniform_loss

    @property
    def loss(self) -> float:
        """The validation loss; infinite where the run diverged."""
        return math.inf if self.diverged or self.val_loss is None else self.val_loss


def as_facts(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Outcomes as JSON; `outcomes_of` reads them."""
    return [asdict(outcome) for outcome in outcomes]


def outcomes_of(facts: Sequence[dict[str, Any]]) -> list[Outcome]:
    """The outcomes that `as_facts` wrote."""
    return [Outcome(**fact) for fact in facts]


def best_of(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The outcome of the lowest validation loss; None where all diverged."""
    best = min(outcomes, key=lambda outcome: outcome.loss, default=None)
    return None if best is None or best.diverged else best


@dataclass(frozen=True)
class Losses:
    """The validation losses of a run and its repetitions with other seeds."""

    mean: float
    spread: float | None
    """The largest less the smallest; None of one."""
    count: int

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> "Losses":
        """Those of the outcomes that did not diverge; at least one."""
        losses = [outcome.loss for outcome in outcomes if not outcome.diverged]
        spread = max(losses) - min(losses) if len(losses) > 1 else None
        return cls(statistics.fmean(losses), spread, len(losses))
