"""The course's toy: SGD with the rate lr / sqrt(t + 1) on the mean square of 100 numbers."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from lm.backend import BackendName
from lm.config import ModelConfig, TrainConfig
from lm.experiment.plot import open_plot
from lm.rng import normal, philox
from lm.tables import markdown_table

RATES = (1e1, 1e2, 1e3)
STEPS = 10
BACKENDS: tuple[BackendName, ...] = ("torch", "jax")


def run(rates: tuple[float, ...] = RATES) -> dict[str, Any]:
    """Return the losses before each step and after the last, with the SGD of each backend, in float32."""
    return {
        "losses": {backend: {f"{rate:g}": descend(backend, rate) for rate in rates} for backend in BACKENDS}
    }


def descend(backend: BackendName, rate: float) -> list[float]:
    """Minimise mean(w^2) from w = 5 N(0, 1), 10 x 10, in ten steps of a backend's SGD.

    The gradient is 2 w / 100. SGD keeps no state except its step count, so each step starts again from the initial
    weights and applies all gradients so far.
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


def tables(facts: dict[str, Any]) -> list[str]:
    """Return the losses after each step, and how far the backends differ."""
    rows = [
        [f"{backend}, rate {rate}", *(f"{loss:.3g}" for loss in losses)]
        for backend, by_rate in facts["losses"].items()
        for rate, losses in by_rate.items()
    ]
    torch, jax = facts["losses"].values()
    differences = [
        [rate, f"{max(abs(a / b - 1) for a, b in zip(torch[rate], jax[rate], strict=True) if b > 1e-12):.1e}"]
        for rate in torch
    ]
    return [
        markdown_table(["steps taken", *map(str, range(STEPS + 1))], rows),
        markdown_table(
            ["rate", "largest difference of the backends (relative, losses above 1e-12)"], differences
        ),
    ]


def plot(facts: dict[str, Any], path: Path) -> None:
    """Draw the losses over steps on a logarithmic axis, JAX dashed over torch."""
    with open_plot(path) as axes:
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
