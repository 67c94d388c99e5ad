"""Words and tables of the reports."""

from collections.abc import Sequence

from lm.experiment.outcomes import Losses, Outcome


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def outcome_rows(outcomes: Sequence[Outcome], label: str = "") -> list[list[str]]:
    """The rows of `OUTCOME_HEADER`."""
    return [
        [
            label or outcome.name,
            f"{outcome.learning_rate:g}",
            str(outcome.batch_size),
            str(outcome.seed),
            f"{outcome.steps:,}",
            loss_or_fate(outcome),
            f"{outcome.seconds:.1f}",
        ]
        for outcome in outcomes
    ]


OUTCOME_HEADER = ("run", "learning rate", "batch", "seed", "steps", "validation loss", "seconds")


def loss_or_fate(outcome: Outcome) -> str:
    """The validation loss, or how the run diverged."""
    if outcome.not_finite_at is not None:
        return f"diverged: not finite at step {outcome.not_finite_at}"
    if outcome.diverged:
        return "diverged: " + ("not finite" if outcome.val_loss is None else f"{outcome.val_loss:,.1f}")
    return f"{outcome.loss:.4f}"


def mean_loss(losses: Losses) -> str:
    """`1.2345, the mean of 3 seeds`."""
    return f"{losses.mean:.4f}" + (f", the mean of {losses.count} seeds" if losses.count > 1 else "")


def chance(*groups: Losses) -> float | None:
    """What the seed alone moves a loss by: the widest spread of the groups; None where nothing was repeated."""
    return max((group.spread for group in groups if group.spread is not None), default=None)


def duration(seconds: float) -> str:
    """Seconds as a length of time with a fitting unit."""
    for unit, size in (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.2g} seconds" if seconds < 10 else f"{seconds:.0f} seconds"
