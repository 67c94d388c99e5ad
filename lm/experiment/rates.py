"""The learning rate: a sweep that ends when training diverges."""

from pathlib import Path
from typing import Any

from lm.experiment.outcomes import as_facts, outcomes_of, runs_table, seeds_table
from lm.experiment.plot import Curve, plot_curves
from lm.experiment.runs import Runs

# If no rate diverges, try at most this number of higher rates, each this many times the one before.
_MOST_HIGHER, _FACTOR = 8, 10.0


def run(runs: Runs) -> dict[str, Any]:
    """Sweep the rates, continue upwards until a run diverges, and repeat the best rate with other seeds."""
    tried = runs.sweep()
    for _ in range(_MOST_HIGHER):
        if tried[-1].diverged:
            break
        tried.append(runs.train(learning_rate=float(f"{tried[-1].learning_rate * _FACTOR:.3g}")))
    return {
        "tried": as_facts(tried),
        "repeated": as_facts(runs.repeat(learning_rate=runs.best_rate())),
        "floor": runs.floor,
    }


def tables(facts: dict[str, Any]) -> list[str]:
    """Return the runs of the sweep, and those of the best rate with other seeds."""
    tried, repeated = outcomes_of(facts["tried"]), outcomes_of(facts["repeated"])
    return [runs_table({o.name: [o] for o in (*tried, *repeated)}), seeds_table({"best rate": repeated})]


def plot(facts: dict[str, Any], runs: Path, path: Path) -> None:
    """Draw a curve for each rate, from blue (low) to red (high), dashed if the run diverged."""
    from matplotlib import colormaps

    tried = outcomes_of(facts["tried"])
    curves = [
        Curve(o, f"rate {o.learning_rate:g}", colormaps["turbo"](i / max(1, len(tried) - 1)))
        for i, o in enumerate(tried)
    ]
    plot_curves(curves, runs, facts["floor"], path)
