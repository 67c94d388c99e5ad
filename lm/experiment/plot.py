"""Loss curves of runs, over steps and over wall time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.experiment.outcomes import Outcome
from lm.files import published
from lm.run.metrics import read_metrics

# As many points as the mean of a curve's training losses is taken over, in parts of the run.
_SMOOTHED_OVER = 20


@dataclass(frozen=True)
class Curve:
    """A run to draw."""

    outcome: Outcome
    label: str
    style: str = "-"
    colour: Any = None


def plot_curves(
    curves: Sequence[Curve],
    runs: Path,
    floor: float | None,
    path: Path,
    axes: Sequence[str] = ("step", "seconds"),
    logarithmic: bool = False,
) -> None:
    """Draw the training losses of runs, smoothed, with a cross where a run stopped being finite.

    Args:
        runs: The folder that holds the runs' folders.
        floor: The text's entropy floor in nats per token.
        path: PNG file to write.
        axes: What to draw over, a picture each: step, tokens, seconds.
        logarithmic: Whether steps and seconds are.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.8 + 4.6 * len(axes), 4.4), dpi=100, layout="constrained")
    pictures = figure.subplots(1, len(axes), sharey=True)
    uniform = max(curve.outcome.uniform_loss for curve in curves)
    titles = {"step": "Over steps", "tokens": "Over tokens", "seconds": "Over wall time"}
    labels = {"step": "step", "tokens": "tokens", "seconds": "seconds, evaluations included"}
    lowest = uniform
    for picture, x in zip(pictures, axes, strict=True):
        for curve in curves:
            records = _losses(read_metrics(runs / curve.outcome.name))
            lowest = min([lowest, *(loss for _, loss in records)])
            (line,) = picture.plot(
                [record[x] for record, _ in records],
                [loss for _, loss in records],
                curve.style,
                color=curve.colour,
                linewidth=1.5,
                label=curve.label,
            )
            if curve.outcome.not_finite_at is not None and records:
                last, loss = records[-1]
                picture.plot(last[x], min(loss, 1.15 * uniform), "x", color=line.get_color(), markersize=9)
        picture.axhline(uniform, color="black", linestyle="-.", linewidth=0.8, label="all tokens alike, ln V")
        if floor is not None:
            picture.axhline(floor, color="black", linestyle=":", linewidth=1.2, label="entropy floor")
        if logarithmic and x != "tokens":
            picture.set_xscale("log")
        picture.set_xlabel(labels[x])
        picture.set_title(titles[x])
        picture.grid(alpha=0.3)
    lowest = lowest if floor is None else min(floor, lowest)
    pictures[0].set_ylim(lowest - 0.05 * uniform, 1.2 * uniform)
    pictures[0].set_ylabel("training loss, nats per token")
    handles, names = pictures[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize=9)
    with published(path) as temporary:
        figure.savefig(temporary, format="png")


def _losses(metrics: list[dict[str, Any]]) -> list[tuple[dict[str, Any], float]]:
    """The records of training steps, each with the mean of its loss and the few before it."""
    records = [m for m in metrics if isinstance(m.get("train_loss"), float)]
    window = math.ceil(len(records) / _SMOOTHED_OVER)
    smooth = []
    for i, record in enumerate(records):
        recent = [r["train_loss"] for r in records[max(0, i + 1 - window) : i + 1]]
        smooth.append((record, sum(recent) / len(recent)))
    return smooth
