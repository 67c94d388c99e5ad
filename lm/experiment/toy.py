"""The course's toy: SGD with the rate lr / sqrt(t + 1) on the mean square of 100 numbers."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from lm.backend import BackendName
from lm.config import ModelConfig, TrainConfig
from lm.files import published
from lm.rng import normal, philox
from lm.tables import markdown_table

RATES = (1e1, 1e2, 1e3)
STEPS = 10
BACKENDS: tuple[BackendName, ...] = ("torch", "jax")


def run(rates: tuple[float, ...] = RATES) -> dict[str, Any]:
    """The losses before each step and after the last, with either backend's SGD, in float32."""
    return {
        "losses": {backend: {f"{rate:g}": descend(backend, rate) for rate in rates} for backend in BACKENDS}
    }


def descend(backend: BackendName, rate: float) -> list[float]:
    """Minimise mean(w^2) from w = 5 N(0, 1), 10 x 10, in ten steps of a backend's SGD.

    The gradient is 2 w / 100. A step's weights are those that all gradients so far lead to from the start, since SGD
    keeps nothing but its step count.
    """
    from parity.backends import evaluator
    from parity.case import Given

    # A backend is set up for the config of a model. No model is made.
    evaluate = evaluator(backend, TrainConfig(ModelConfig(1, 1, 2, 1, 1)))
    start = 5.0 * normal(philox(0, "toy"), 100).reshape(10, 10)
    weights, losses, gradients = start, [], {}
    for t in range(STEPS + 1):
        losses.append(float(np.mean(weights**2)))
        gradients[f"{t}.gradient"] = 2 * weights / weights.size
        if t < STEPS:
            given = Given({"weight": start, **gradients}, statics={"lr": rate})
            weights, _ = evaluate("sgd", given, np.zeros((10, 10)), "float32", "eager")
    return losses


def findings(facts: dict[str, Any]) -> list[str]:
    """What becomes of the loss at each rate, in sentences."""
    ours = facts["losses"]
    first, *others = ours.values()
    said = [
        "The gradient of mean(w^2) over 100 numbers is w / 50, so step t multiplies every weight by "
        "1 - lr / (50 sqrt(t + 1)): the loss falls while that is between -1 and 1."
    ]
    for rate, losses in first.items():
        start, end, worst = losses[0], losses[-1], max(losses)
        factor = 1 - float(rate) / 50
        fate = (
            "**grows: it diverges**"
            if end > start
            else "**falls**"
            if end > 1e-6 * start
            else "**falls to nothing**"
        )
        said.append(
            f"At {float(rate):g} the first factor is {factor:g}, and the loss {fate}, from {start:.4g} to {end:.3g} in "
            f"{len(losses) - 1} steps"
            + (f", after {worst:.3g} at its highest." if worst > 1.001 * max(start, end) else ".")
        )
    difference = max(
        abs(a - b) / max(abs(a), 1e-30)
        for other in others
        for rate, losses in first.items()
        for a, b in zip(losses, other[rate], strict=True)
        if a > 1e-12
    )
    said.append(f"Both backends' losses agree to {difference:.1e}, wherever they are above 1e-12.")
    return said


def tables(facts: dict[str, Any]) -> list[str]:
    """The losses at each step."""
    rows = [
        [f"{backend}, rate {rate}", *(f"{loss:.3g}" for loss in losses)]
        for backend, by_rate in facts["losses"].items()
        for rate, losses in by_rate.items()
    ]
    return [markdown_table(["steps taken", *map(str, range(STEPS + 1))], rows)]


def plot(facts: dict[str, Any], path: Path) -> None:
    """The losses over steps, logarithmic; one backend's dashed on the other's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), dpi=100, layout="constrained")
    axes = figure.subplots()
    styles = (("-", 3.0, 0.5), ("--", 1.2, 1.0))
    for (backend, by_rate), (line, width, alpha) in zip(facts["losses"].items(), styles, strict=True):
        for (rate, losses), colour in zip(
            by_rate.items(), ("tab:blue", "tab:green", "tab:red"), strict=False
        ):
            shown = [loss if loss > 0 and math.isfinite(loss) else math.nan for loss in losses]
            axes.plot(
                shown, line, color=colour, linewidth=width, alpha=alpha, label=f"{backend}, rate {rate}"
            )
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("mean square")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=9)
    with published(path) as temporary:
        figure.savefig(temporary, format="png")
