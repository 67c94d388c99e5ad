"""The batch size, over as many tokens."""

import math
from pathlib import Path
from typing import Any

from lm.accounting.memory import memory
from lm.experiment.outcomes import Losses, Outcome, as_facts, best_of, outcomes_of
from lm.experiment.plot import Curve, plot_curves
from lm.experiment.runs import Plan, Runs
from lm.experiment.text import OUTCOME_HEADER, chance, listed, loss_or_fate, outcome_rows
from lm.machine import total_memory
from lm.tables import markdown_table

# With fewer steps, little is left of a schedule.
_FEWEST_STEPS = 4


def run(runs: Runs) -> dict[str, Any]:
    """Train with each batch size on as many tokens, the rate scaled by the root of the size."""
    base = runs.plan.config.batch_size
    best_rate = runs.best_rate()
    outcomes = []
    for size in batch_sizes(runs.plan):
        rate = float(f"{best_rate * math.sqrt(size / base):.3g}")
        changes = {} if size == base else {"batch_size": size}
        outcomes.append(runs.train(learning_rate=rate, **changes))
    return {
        "outcomes": as_facts(outcomes),
        "repeated": as_facts(runs.repeated(learning_rate=best_rate)),
        "base": base,
        "best_rate": best_rate,
        "context_length": runs.plan.config.model.context_length,
        "fits": fits(runs.plan),
        "floor": runs.floor,
    }


def fits(plan: Plan) -> dict[str, int] | None:
    """The machine's memory in bytes, and the largest batch that fits it; None of an accelerator's."""
    if plan.config.device != "cpu":
        return None
    available = total_memory()
    largest = memory(plan.config, plan.backend).largest_batch(available) * plan.config.grad_accumulation
    return {"memory": available, "batch_size": largest}


def batch_sizes(plan: Plan) -> list[int]:
    """The plan's batch sizes; if it has none, 1, 4, 16 and so on, as long as they fit and steps remain."""
    config = plan.config
    if plan.batch_sizes:
        return list(plan.batch_sizes)
    room = fits(plan)
    largest = math.inf if room is None else room["batch_size"]
    windows = config.steps * config.batch_size
    sizes = {config.batch_size}
    size = config.grad_accumulation
    while windows // size >= _FEWEST_STEPS and size <= largest:
        sizes.add(size)
        size *= 4
    return sorted(sizes)


def findings(facts: dict[str, Any]) -> list[str]:
    """What the batch sizes say, in sentences."""
    outcomes = outcomes_of(facts["outcomes"])
    base, rate = facts["base"], facts["best_rate"]
    tokens = outcomes[0].batch_size * outcomes[0].steps * facts["context_length"]
    said = [
        f"Every run sees about {tokens:,} tokens, so a larger batch means fewer steps. The rate follows the "
        f"square-root rule for Adam (Malladi et al., 2022), {rate:g} x sqrt(batch / {base}); it was not tuned "
        "for each size."
    ]
    if facts["fits"]:
        most, last = facts["fits"]["batch_size"], outcomes[-1]
        if 4 * last.batch_size > most:
            reason = "is within a factor of 4 of that"
        elif last.steps // 4 < _FEWEST_STEPS:
            reason = f"leaves {last.steps} steps, so that the schedule ends the series before memory does"
        else:
            reason = "is not where memory ends"
        said.append(
            f"By lm accounting's count, {facts['fits']['memory'] / 2**30:.1f} GiB of memory hold batches of up to "
            f"{most:,} windows; the largest tried, {last.batch_size:,}, {reason}."
        )
    best = best_of(outcomes)
    if best is None:
        return [*said, "**Every batch size diverges.**"]
    noise = chance(Losses.of(outcomes_of(facts["repeated"])))
    said.append(
        f"**The lowest loss is that of batch size {best.batch_size}**, {best.loss:.4f}. "
        f"{_alike(outcomes, best, noise)}"
    )
    for end, word in ((outcomes[0], "smallest"), (outcomes[-1], "largest")):
        if end is not best:
            fate = (
                "diverges" if end.diverged else f"ends {end.loss - best.loss:.4f} above it, at {end.loss:.4f}"
            )
            said.append(f"The {word}, {end.batch_size}, {fate}, after {end.steps:,} steps.")
    fastest = max(outcomes, key=_speed)
    slowest = min(outcomes, key=_speed)
    said.append(
        f"Tokens pass fastest at {fastest.batch_size} ({_speed(fastest):,.0f} a second) and slowest at "
        f"{slowest.batch_size} ({_speed(slowest):,.0f} a second), evaluations included: "
        + (
            "a step has costs that do not shrink with its batch."
            if slowest.batch_size < fastest.batch_size
            else "here larger batches do not pay in speed."
        )
    )
    return said


def _speed(outcome: Outcome) -> float:
    return outcome.tokens / outcome.seconds if outcome.seconds else 0.0


def _alike(outcomes: list[Outcome], best: Outcome, noise: float | None) -> str:
    if noise is None:
        return "How much of that is chance is not known: nothing was repeated with another seed."
    alike = [str(o.batch_size) for o in outcomes if o is not best and o.loss - best.loss <= noise]
    return (
        f"The seed alone moves the baseline by {noise:.4f}; by no more, "
        f"{listed(alike)} {'is' if len(alike) == 1 else 'are'} worse."
        if alike
        else f"Every other size is worse by more than the {noise:.4f} by which the seed alone moves the baseline."
    )


def tables(facts: dict[str, Any]) -> list[str]:
    """Every run."""
    rows = [
        [*row[1:], f"{_speed(outcome):,.0f}"]
        for outcome in outcomes_of(facts["outcomes"])
        for row in outcome_rows([outcome])
    ]
    return [markdown_table((*OUTCOME_HEADER[1:], "tokens/s"), rows)]


def plot(facts: dict[str, Any], runs: Path, path: Path) -> None:
    """A curve for each size, from blue (small) to red (large)."""
    from matplotlib import colormaps

    outcomes = outcomes_of(facts["outcomes"])
    curves = [
        Curve(
            outcome,
            f"batch {outcome.batch_size}: {loss_or_fate(outcome)}",
            "--" if outcome.diverged else "-",
            colormaps["turbo"](i / max(1, len(outcomes) - 1)),
        )
        for i, outcome in enumerate(outcomes)
    ]
    plot_curves(curves, runs, facts["floor"], path, ("step", "tokens", "seconds"), logarithmic=True)
