"""The progress of a run: what it knows of its past beside its weights."""

import math
from dataclasses import dataclass, fields
from typing import Any


@dataclass
class Progress:
    """What a run knows of its past beside its weights; part of every checkpoint."""

    val_loss: float | None = None
    """Validation loss after this step, if the step was evaluated."""
    best_val_loss: float | None = None
    """Lowest validation loss so far."""
    evaluations_since_best: int = 0
    """Number of evaluations since the lowest validation loss."""
    skipped: int = 0
    """Number of steps left out because their loss or gradient norm was not finite."""

    def evaluated(self, loss: float) -> None:
        """Record a validation loss; a loss that is not finite counts as the worst."""
        self.val_loss = loss if math.isfinite(loss) else None
        if self.val_loss is not None and (self.best_val_loss is None or loss < self.best_val_loss):
            self.best_val_loss, self.evaluations_since_best = loss, 0
        else:
            self.evaluations_since_best += 1


def read_progress(saved: dict[str, Any]) -> Progress:
    """Read the progress in a checkpoint's state.json; a missing or malformed value gets its default."""
    known: dict[str, Any] = {}
    for field in fields(Progress):
        value = saved.get(field.name)
        if isinstance(value, int if field.type is int else float):
            known[field.name] = value
    return Progress(**known)
