"""AdamW against Muon, each at its best rates: the steps and the seconds that each needs to reach a loss."""

import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm.experiment.outcomes import Outcome, as_facts, best_of, mean_loss, outcomes_of, runs_table, spread
from lm.experiment.plot import open_plot
from lm.experiment.runs import Changes, Runs
from lm.tables import markdown_table
from tokenizer.errors import InputError

NEEDS = {"optimizer.kind": ("adamw",)}
"""What the baseline must be."""
# Muon's sweep tries these multiples of the config's rate. Then both optimizers try these multiples of AdamW's rate.
_MUON_FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
_NEAR = (0.5, 2.0)
# Lengths of the runs, as multiples of the config's steps. Each run has its full schedule.
_LENGTHS = (0.25, 0.5, 1.0, 2.0)


def run(runs: Runs) -> dict[str, Any]:
    """Find each optimizer's best rates, and repeat runs of four lengths with all seeds."""
    adamw, tried_adamw = best_adamw(runs)
    muon, tried_muon = best_muon(runs)
    kinds = {"AdamW": adamw, "Muon": muon}
    steps = runs.plan.config.steps
    lengths = sorted({max(2, round(steps * length)) for length in _LENGTHS})
    return {
        "tried": as_facts([*tried_adamw, *tried_muon]),
        "best": kinds,
        "lengths": {
            name: [
                as_facts(runs.repeat(**changes, **({} if length == steps else {"steps": length})))
                for length in lengths
            ]
            for name, changes in kinds.items()
        },
        "step_seconds": runs.step_seconds(kinds),
        "floor": runs.floor,
    }


def best_adamw(runs: Runs) -> tuple[Changes, list[Outcome]]:
    """Return the changes with which AdamW ends best, and the runs that were tried: a sweep, then near its best."""
    rate = runs.best_rate()
    tried = runs.sweep() + _near(runs, rate, {})
    best = best_of(tried)
    assert best is not None
    return {"learning_rate": best.learning_rate}, tried


def best_muon(runs: Runs) -> tuple[Changes, list[Outcome]]:
    """Return the changes with which Muon ends best, and the runs that were tried.

    The sweep is over the rate of the blocks' matrices, at AdamW's best rate of the sweep for all other parameters.
    """
    rate, config = runs.best_rate(), runs.plan.config.optimizer
    sweep = [
        {"kind": "muon", "muon_learning_rate": float(f"{config.muon_learning_rate * factor:.3g}")}
        for factor in _MUON_FACTORS
    ]
    tried = [runs.train(**changes, learning_rate=rate) for changes in sweep]
    best = best_of(tried)
    if best is None:
        raise InputError(
            f"Muon diverges at every rate from {sweep[0]['muon_learning_rate']:g} to "
            f"{sweep[-1]['muon_learning_rate']:g}: give a lower --optimizer.muon-learning-rate"
        )
    changes = sweep[tried.index(best)]
    near = _near(runs, rate, changes)
    best = best_of([best, *near])
    assert best is not None
    return {**changes, "learning_rate": best.learning_rate}, tried + near


def _near(runs: Runs, rate: float, changes: Changes) -> list[Outcome]:
    """Train with changes at half and at double a rate."""
    return [runs.train(**changes, learning_rate=float(f"{rate * factor:.3g}")) for factor in _NEAR]


def steps_to_reach(target: float, lengths: Sequence[tuple[int, float]]) -> float | None:
    """Return the steps after which a loss is reached, or None if it lies outside the losses of the lengths.

    Args:
        target: The loss to reach.
        lengths: The number of steps and the loss of runs, in rising order of steps. Between two runs the loss is a line
            over the logarithm of the steps.

    >>> steps_to_reach(2.5, [(100, 3.0), (400, 2.0)])
    200.0
    >>> steps_to_reach(1.9, [(100, 3.0), (400, 2.0)])
    """
    for (steps, loss), (more_steps, lower) in itertools.pairwise(lengths):
        if loss >= target >= lower and loss > lower:
            share = (loss - target) / (loss - lower)
            return round(steps * (more_steps / steps) ** share, 9)
    return None


def tables(facts: dict[str, Any]) -> list[str]:
    """Return the runs at all rates, the losses of each length, and what each optimizer needs to reach a loss."""
    return [
        runs_table({o.name: [o] for o in outcomes_of(facts["tried"])}),
        _lengths_table(facts),
        _reach_table(facts),
        _seconds_table(facts["step_seconds"]),
    ]


def _lengths_table(facts: dict[str, Any]) -> str:
    """Return the mean loss and the spread of each optimizer at each length."""
    floor = facts["floor"] or 0.0
    what = "loss" if facts["floor"] is None else "above the floor"
    head = ["steps", "seeds"]
    head += [cell for name in facts["lengths"] for cell in (f"{name}: {what}", f"{name}: spread")]
    head.append("difference")
    rows = []
    for groups in zip(*facts["lengths"].values(), strict=True):
        by_kind = [outcomes_of(group) for group in groups]
        means = [mean_loss(outcomes) for outcomes in by_kind]
        cells = [
            cell
            for outcomes, mean in zip(by_kind, means, strict=True)
            for cell in (_number(mean - floor), _number(spread(outcomes)))
        ]
        # A run that diverged may have stopped early.
        steps = max(o.steps for outcomes in by_kind for o in outcomes)
        difference = _number(means[1] - means[0], "+.4f")
        rows.append([f"{steps:,}", str(len(by_kind[0])), *cells, difference])
    return markdown_table(head, rows)


def _reach_table(facts: dict[str, Any]) -> str:
    """Return the steps and seconds that each optimizer needs to reach the mean losses of AdamW's runs."""
    adamw, muon = (_curve(groups) for groups in facts["lengths"].values())
    seeds = [
        _curve([[group[i]] for group in facts["lengths"]["Muon"]])
        for i in range(len(facts["lengths"]["Muon"][0]))
    ]
    floor = facts["floor"] or 0.0
    step = {name: statistics.median(seconds) for name, seconds in facts["step_seconds"].items()}
    ratio = step["Muon"] / step["AdamW"]
    head = (
        "loss" if facts["floor"] is None else "above the floor",
        *("AdamW: steps", "Muon: steps", "by seed", "of AdamW's steps"),
        *("AdamW: seconds", "Muon: seconds", "of AdamW's seconds"),
    )
    rows = []
    for steps, target in adamw:
        needs, by_seed = steps_to_reach(target, muon), [steps_to_reach(target, curve) for curve in seeds]
        cells = ["-"] * 6
        if needs is not None:
            known = [n for n in by_seed if n is not None]
            lowest_to_highest = f"{min(known):.0f} to {max(known):.0f}" if len(known) == len(by_seed) else "-"
            cells = [f"{needs:.0f}", lowest_to_highest, f"{needs / steps:.2f}"]
            cells += [f"{steps * step['AdamW']:.1f}", f"{needs * step['Muon']:.1f}"]
            cells.append(f"{needs / steps * ratio:.2f}")
        rows.append([_number(target - floor), f"{steps:,}", *cells])
    return markdown_table(head, rows)


def _seconds_table(seconds: dict[str, list[float]]) -> str:
    """Return the times of a step, measured in rounds in which both optimizers take turns."""
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    head = ("ms a step", *seconds, "ratio in a round", "lowest to highest")
    times = [f"{1000 * statistics.median(rounds):.1f}" for rounds in seconds.values()]
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    return markdown_table(head, [["median", *times, f"{statistics.median(ratios):.3f}", spread]])


def _curve(groups: Sequence[Sequence[dict[str, Any]]]) -> list[tuple[int, float]]:
    """Return the number of steps and the mean loss of each length."""
    by_length = [outcomes_of(group) for group in groups]
    return [(max(o.steps for o in outcomes), mean_loss(outcomes)) for outcomes in by_length]


def _number(value: float, form: str = ".4f") -> str:
    return f"{value:{form}}" if math.isfinite(value) else "-"


def plot(facts: dict[str, Any], path: Path) -> None:
    """Draw the mean loss of each optimizer over the number of steps, and a dot for each seed."""
    floor = facts["floor"] or 0.0
    with open_plot(path) as axes:
        for i, (name, groups) in enumerate(facts["lengths"].items()):
            curve = [(steps, loss - floor) for steps, loss in _curve(groups)]
            axes.plot(*zip(*curve, strict=True), color=f"C{i}", label=f"{name}, mean")
            dots = [(o.steps, o.loss - floor) for group in groups for o in outcomes_of(group)]
            axes.plot(*zip(*dots, strict=True), "o", color=f"C{i}", alpha=0.6, label=f"{name}, each seed")
        axes.set_xscale("log", base=2)
        axes.set_xticks([steps for steps, _ in curve], [f"{steps:,}" for steps, _ in curve])
        axes.set_xlabel("steps of the run")
        axes.set_ylabel("validation loss" + (" above the floor, nats" if floor else ", nats per token"))
