"""Plots: loss curves of runs, and the frame of plots that need no runs."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.experiment.outcomes import Outcome
from lm.files import published
from lm.run.metrics import read_metrics

# A curve shows means over this part of the run: 1/20.
_SMOOTHED_OVER = 20


@dataclass(frozen=True)
class Curve:
    """A run to draw."""

    outcome: Outcome
    label: str
    colour: Any


@contextlib.contextmanager
def open_plot(path: Path, height: float = 4.2) -> Iterator[Any]:
    """Yield the axes of a plot, `height` inches high. At the end, add a grid and a legend, and write the PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, height), dpi=100, layout="constrained")
    axes = figure.subplots()
    yield axes
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=9)
    with published(path) as temporary:
        figure.savefig(temporary, format="png")


def plot_curves(
    curves: Sequence[Curve],
    runs: Path,
    floor: float | None,
    path: Path,
    axes: Sequence[str] = ("step", "seconds"),
    logarithmic: bool = False,
) -> None:
    """Draw the smoothed training losses of runs, dashed if a run diverged, with a cross at the last finite loss.

    Args:
        runs: The folder that holds the runs' folders.
        floor: The text's entropy floor in nats per token.
        path: PNG file to write.
        axes: Quantities of the x axes, one picture for each: step, tokens, seconds.
        logarithmic: Whether the axes of steps and seconds are logarithmic.
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
                "--" if curve.outcome.diverged else "-",
                color=curve.colour,
                linewidth=1.5,
                label=f"{curve.label}: {curve.outcome.fate}",
            )
            if curve.outcome.not_finite_at is not None and records:
                last, loss = records[-1]
                picture.plot(last[x], min(loss, 1.15 * uniform), "x", color=line.get_color(), markersize=9)
        picture.axhline(
            uniform, color="black", linestyle="-.", linewidth=0.8, label="equal probabilities, ln V"
        )
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
    """Return the records of training steps, each with the mean of its loss and the losses just before it."""
    records = [m for m in metrics if isinstance(m.get("train_loss"), float)]
    window = math.ceil(len(records) / _SMOOTHED_OVER)
    smooth = []
    for i, record in enumerate(records):
        recent = [r["train_loss"] for r in records[max(0, i + 1 - window) : i + 1]]
        smooth.append((record, sum(recent) / len(recent)))
    return smooth
