"""Ablations: the baseline with one part changed, at several rates. Its best rate is repeated with other seeds."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.config import ModelConfig
from lm.experiment.outcomes import as_facts, best_of, outcomes_of, runs_table, seeds_table
from lm.experiment.plot import Curve, plot_curves
from lm.experiment.runs import Runs
from lm.tables import markdown_table

_NORMS = ("rmsnorm", "layernorm")


@dataclass(frozen=True)
class Ablation:
    """A change of the baseline."""

    label: str
    """Its name in tables and legends."""
    changes: Callable[[ModelConfig], dict[str, Any]]
    """Return the fields of the baseline that change (see `lm.experiment.runs.apply_changes`)."""
    needs: dict[str, tuple[str, ...]]
    """Values that the baseline's settings must have, so that there is something to change."""
    lower: int = 1
    """Number of rates below the baseline's best that are tried, too."""
    higher: int = 1
    """Number of rates above the baseline's best that are tried, too."""
    timed: bool = False
    """Whether to compare the seconds of a step."""


def run(runs: Runs, ablation: Ablation) -> dict[str, Any]:
    """Train the changed model at the baseline's best rate and near it, and repeat both with other seeds."""
    changes = ablation.changes(runs.plan.config.model)
    best_rate = runs.best_rate()
    rates = runs.plan.rates
    i = rates.index(best_rate)
    near = rates[max(0, i - ablation.lower) : i + ablation.higher + 1]
    tried = [runs.train(**changes, learning_rate=rate) for rate in near]
    best = best_of(tried)
    baseline = runs.repeat(learning_rate=best_rate)
    facts = {
        "changes": changes,
        "best_rate": best_rate,
        "baseline": as_facts(baseline),
        "tried": as_facts(tried),
        "repeated": as_facts(runs.repeat(**changes, learning_rate=best.learning_rate)) if best else [],
        "floor": runs.floor,
    }
    if ablation.timed:
        facts["step_seconds"] = runs.step_seconds({"baseline": {}, "changed": changes})
    return facts


def tables(facts: dict[str, Any], ablation: Ablation) -> list[str]:
    """Return the runs, the comparison over seeds and, if steps were timed, their times."""
    baseline, tried, repeated = (outcomes_of(facts[key]) for key in ("baseline", "tried", "repeated"))
    others = [outcome for outcome in repeated if outcome not in tried]
    blocks = [
        runs_table({"baseline": baseline, ablation.label: [*tried, *others]}),
        seeds_table({"baseline": baseline, ablation.label: repeated}),
    ]
    if "step_seconds" in facts:
        blocks.append(_step_times(facts["step_seconds"], ablation.label))
    return blocks


def _step_times(seconds: dict[str, list[float]], label: str) -> str:
    """Return the times of a step, measured in rounds in which both models take turns."""
    ratios = [b / a for a, b in zip(seconds["baseline"], seconds["changed"], strict=True)]
    times = [f"{1000 * statistics.median(seconds[name]):.1f}" for name in ("baseline", "changed")]
    head = ("ms a step", "baseline", label, "ratio in a round", "lowest to highest", "rounds faster")
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    faster = f"{sum(ratio < 1 for ratio in ratios)} of {len(ratios)}"
    return markdown_table(head, [["median", *times, f"{statistics.median(ratios):.3f}", spread, faster]])


def plot(facts: dict[str, Any], ablation: Ablation, runs: Path, path: Path) -> None:
    """Draw the baseline at its best rate in black, and the changed model at each rate in colours."""
    first = outcomes_of(facts["baseline"])[0]
    curves = [Curve(first, f"baseline, rate {first.learning_rate:g}", "black")]
    curves += [
        Curve(o, f"{ablation.label}, rate {o.learning_rate:g}", f"C{i}")
        for i, o in enumerate(outcomes_of(facts["tried"]))
    ]
    plot_curves(curves, runs, facts["floor"], path)


ABLATIONS = {
    "no-norm": Ablation("no norm", lambda _: {"norm": "none"}, {"model.norm": _NORMS}, lower=2, higher=0),
    "post-norm": Ablation(
        "post-norm",
        lambda _: {"norm_position": "post"},
        {"model.norm": _NORMS, "model.norm_position": ("pre",)},
    ),
    "no-position": Ablation(
        "no positions",
        lambda _: {"position": "none"},
        {"model.position": ("rope", "learned", "sinusoidal")},
    ),
    "silu": Ablation(
        "SiLU",
        # Two matrices replace three: d_ff is 4 d_model if SwiGLU's is 8/3 d_model.
        lambda model: {"ffn": "silu", "d_ff": math.ceil(1.5 * (model.d_ff or 0))},
        {"model.ffn": ("swiglu",)},
    ),
    "parallel": Ablation(
        "parallel",
        lambda _: {"block": "parallel"},
        {"model.block": ("sequential",)},
        timed=True,
    ),
    "documents": Ablation(
        "packed",
        lambda _: {"documents": "packed"},
        {"documents": ("joined",)},
        timed=True,
    ),
}
