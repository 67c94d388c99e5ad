"""The batch size, at an equal number of tokens."""

import math
from pathlib import Path
from typing import Any

from lm.accounting.memory import memory
from lm.experiment.outcomes import as_facts, outcomes_of, runs_table, seeds_table
from lm.experiment.plot import Curve, plot_curves
from lm.experiment.runs import Plan, Runs
from lm.machine import total_memory
from lm.tables import markdown_table

# A run with fewer steps has almost no schedule.
_FEWEST_STEPS = 4


def run(runs: Runs) -> dict[str, Any]:
    """Train with each batch size on an equal number of tokens.

    The rate follows the square-root rule for Adam (Malladi et al., 2022).
    """
    base = runs.plan.config.batch_size
    best_rate = runs.best_rate()
    outcomes = []
    for size in batch_sizes(runs.plan):
        rate = float(f"{best_rate * math.sqrt(size / base):.3g}")
        changes = {} if size == base else {"batch_size": size}
        outcomes.append(runs.train(learning_rate=rate, **changes))
    return {
        "outcomes": as_facts(outcomes),
        "repeated": as_facts(runs.repeat(learning_rate=best_rate)),
        "base": base,
        "best_rate": best_rate,
        "context_length": runs.plan.config.model.context_length,
        "fits": memory_limit(runs.plan),
        "floor": runs.floor,
    }


def memory_limit(plan: Plan) -> dict[str, int] | None:
    """Return the memory of the machine in bytes and the largest batch that fits, or None on an accelerator."""
    if plan.config.device != "cpu":
        return None
    available = total_memory()
    largest = memory(plan.config, plan.backend).largest_batch(available) * plan.config.grad_accumulation
    return {"memory": available, "batch_size": largest}


def batch_sizes(plan: Plan) -> list[int]:
    """Return the plan's batch sizes. Without any: 1, 4, 16 and so on, while they fit and enough steps remain."""
    config = plan.config
    if plan.batch_sizes:
        return list(plan.batch_sizes)
    room = memory_limit(plan)
    largest = math.inf if room is None else room["batch_size"]
    windows = config.steps * config.batch_size
    sizes = {config.batch_size}
    size = config.grad_accumulation
    while windows // size >= _FEWEST_STEPS and size <= largest:
        sizes.add(size)
        size *= 4
    return sorted(sizes)


def tables(facts: dict[str, Any]) -> list[str]:
    """Return the runs, the seeds of the baseline, and the largest batch that fits into memory."""
    outcomes = outcomes_of(facts["outcomes"])
    blocks = [
        runs_table({f"batch {o.batch_size}": [o] for o in outcomes}),
        seeds_table({"baseline": outcomes_of(facts["repeated"])}),
    ]
    if room := facts["fits"]:
        row = [f"{room['memory'] / 2**30:.1f}", f"{room['batch_size']:,}"]
        blocks.append(markdown_table(("memory of the machine, GiB", "largest batch by lm accounting"), [row]))
    return blocks


def plot(facts: dict[str, Any], runs: Path, path: Path) -> None:
    """Draw a curve for each size, from blue (small) to red (large), dashed if the run diverged."""
    from matplotlib import colormaps

    outcomes = outcomes_of(facts["outcomes"])
    curves = [
        Curve(o, f"batch {o.batch_size}", colormaps["turbo"](i / max(1, len(outcomes) - 1)))
        for i, o in enumerate(outcomes)
    ]
    plot_curves(curves, runs, facts["floor"], path, ("step", "tokens", "seconds"), logarithmic=True)
