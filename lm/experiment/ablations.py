"""Ablations: the baseline with one part changed, at several rates, its best repeated with other seeds."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.config import ModelConfig
from lm.experiment.outcomes import Losses, Outcome, as_facts, best_of, outcomes_of
from lm.experiment.plot import Curve, plot_curves
from lm.experiment.runs import Runs
from lm.experiment.text import (
    OUTCOME_HEADER,
    chance,
    listed,
    loss_or_fate,
    mean_loss,
    outcome_rows,
)
from lm.tables import markdown_table
from tokenizer.errors import InputError

# Of 9 rounds, 8: by chance so many are on one side once in 26 times.
_CLEARLY = 0.85
_NORMS = ("rmsnorm", "layernorm")


@dataclass(frozen=True)
class Ablation:
    """What is changed."""

    subject: str
    """The change, as the subject of a sentence."""
    short: str
    """The same in a legend."""
    changes: Callable[[ModelConfig], dict[str, Any]]
    """The fields of the baseline's model that change."""
    needs: dict[str, tuple[str, ...]]
    """The values of its fields from which there is something to change."""
    lower: int = 1
    """How many rates of the sweep below the baseline's best are tried beside that one."""
    higher: int = 1
    """How many above it."""
    timed: bool = False
    """Whether the seconds of a step are compared too."""


def check(model: ModelConfig, name: str) -> None:
    """Refuse a baseline that has not got what an ablation changes.

    Raises:
        InputError: names the field.
    """
    for field, values in ABLATIONS[name].needs.items():
        value = getattr(model, field)
        if value not in values:
            raise InputError(f"{name}: model.{field} is {value}; the baseline needs {' or '.join(values)}")


def run(runs: Runs, ablation: Ablation) -> dict[str, Any]:
    """Train the changed model at the baseline's best rate and near it, and repeat both with other seeds."""
    changes = ablation.changes(runs.plan.config.model)
    best_rate = runs.best_rate()
    rates = runs.plan.rates
    at = rates.index(best_rate)
    near = rates[max(0, at - ablation.lower) : at + ablation.higher + 1]
    tried = [runs.train(**changes, learning_rate=rate) for rate in near]
    best = best_of(tried)
    baseline = runs.repeated(learning_rate=best_rate)
    facts = {
        "changes": changes,
        "best_rate": best_rate,
        "baseline": as_facts(baseline),
        "tried": as_facts(tried),
        "repeated": as_facts(runs.repeated(**changes, learning_rate=best.learning_rate)) if best else [],
        "floor": runs.floor,
    }
    if ablation.timed:
        facts["step_seconds"] = runs.step_seconds({"baseline": {}, "changed": changes})
    return facts


def findings(facts: dict[str, Any], ablation: Ablation) -> list[str]:
    """Whether the change hurts, in sentences."""
    baseline, tried = outcomes_of(facts["baseline"]), outcomes_of(facts["tried"])
    repeated = outcomes_of(facts["repeated"])
    said = [_verdict(baseline, tried, repeated, ablation)]
    if len(tried) > 1:
        said.append(_over_rates(tried, facts["best_rate"], Losses.of(baseline)))
    ours, theirs = tried[0].parameters, baseline[0].parameters
    more = "" if ours == theirs else f", the baseline {theirs:,} ({ours / theirs - 1:+.2%})"
    said.append(f"It has {ours:,} parameters{more or ', as many as the baseline'}.")
    if "step_seconds" in facts:
        said += _over_time(facts["step_seconds"], baseline, repeated)
    return said


def _verdict(
    baseline: list[Outcome], tried: list[Outcome], repeated: list[Outcome], ablation: Ablation
) -> str:
    base = Losses.of(baseline)
    if not repeated:
        rates = listed([f"{outcome.learning_rate:g}" for outcome in tried])
        return (
            f"**{ablation.subject} makes training diverge** at every rate tried, {rates}; the baseline ends at "
            f"{mean_loss(base)}."
        )
    rate = repeated[0].learning_rate
    losses = Losses.of(repeated)
    difference, noise = losses.mean - base.mean, chance(base, losses)
    compared = (
        f"at its own best rate, {rate:g}, the validation loss is {mean_loss(losses)}, and the baseline's "
        f"{base.mean:.4f} at {baseline[0].learning_rate:g}"
    )
    lost, theirs = len(repeated) - losses.count, len(baseline) - base.count
    if lost > theirs:
        return (
            f"**{ablation.subject} makes training unreliable**: {lost} of {len(repeated)} seeds diverge, and {theirs} "
            f"of the baseline's; {compared}."
        )
    if noise is None:
        word = "raises" if difference > 0 else "lowers"
        return (
            f"**{ablation.subject} {word} the loss by {abs(difference):.4f} with one seed**, which may be chance: "
            f"{compared}."
        )
    if abs(difference) <= noise:
        return (
            f"**{ablation.subject} makes no difference that these runs can show**: {compared}; the difference of "
            f"{difference:+.4f} is not above the {noise:.4f} that the seed alone moves the loss by."
        )
    return (
        f"**{ablation.subject} {'hurts' if difference > 0 else 'helps'}**: {compared}; the difference of "
        f"{difference:+.4f} is more than the {noise:.4f} that the seed alone moves the loss by."
    )


def _over_rates(tried: list[Outcome], best_rate: float, base: Losses) -> str:
    """What becomes of the changed model at the baseline's best rate, and whether another rate mends it."""
    same = next(outcome for outcome in tried if outcome.learning_rate == best_rate)
    best = best_of(tried)
    others = [outcome for outcome in tried if outcome is not same]
    told = "; ".join(f"{outcome.learning_rate:g}: {loss_or_fate(outcome)}" for outcome in others)
    at = f"At the baseline's best rate, {best_rate:g}, it " + (
        f"{loss_or_fate(same).replace('diverged', 'diverges')}"
        if same.diverged
        else f"trains stably, to {same.loss:.4f}"
    )
    if best is None:
        return f"{at}, and other rates do not mend that ({told})."
    if best is same:
        return f"{at}, and other rates are no better ({told})."
    word = "lower" if best.learning_rate < best_rate else "higher"
    gain = "trains" if same.diverged else f"is better by {same.loss - best.loss:.4f}"
    gap = best.loss - base.mean
    return (
        f"{at}; a {word} one, {best.learning_rate:g}, {gain}, {abs(gap):.4f} "
        f"{'above' if gap > 0 else 'below'} the baseline's mean ({told})."
    )


def _over_time(
    seconds: dict[str, list[float]], baseline: list[Outcome], repeated: list[Outcome]
) -> list[str]:
    """Whether a step takes less time, and what that means for the loss over time."""
    ratios = [b / a for a, b in zip(seconds["baseline"], seconds["changed"], strict=True)]
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    times = [1000 * statistics.median(seconds[name]) for name in ("changed", "baseline")]
    measured = (
        f"a step takes {times[0]:.1f} ms, the baseline's {times[1]:.1f} ms; the ratio is {middle:.3f} (median of "
        f"{len(ratios)} rounds in which the two took turns; {low:.3f} to {high:.3f})"
    )
    faster, slower = sum(ratio < 1 for ratio in ratios), sum(ratio > 1 for ratio in ratios)
    if max(faster, slower) < _CLEARLY * len(ratios):
        said = [f"**Over seconds there is no clear difference**: {measured}, and it was faster in {faster}."]
    else:
        word = "faster" if faster > slower else "slower"
        said = [f"**A step is {word}**, in {max(faster, slower)} rounds of {len(ratios)}: {measured}."]
    if repeated:
        wall = [statistics.fmean(o.seconds for o in outcomes) for outcomes in (repeated, baseline)]
        said.append(
            f"The runs themselves took {wall[0]:.1f} s and {wall[1]:.1f} s on average, evaluations included and not "
            "interleaved, so that what else the machine did is part of those times and of the curves over wall time."
        )
    return said


def tables(facts: dict[str, Any], ablation: Ablation) -> list[str]:
    """Every run."""
    tried, repeated = outcomes_of(facts["tried"]), outcomes_of(facts["repeated"])
    names = {outcome.name for outcome in tried}
    changed = [*tried, *(outcome for outcome in repeated if outcome.name not in names)]
    rows = [
        *outcome_rows(outcomes_of(facts["baseline"]), "baseline"),
        *outcome_rows(changed, ablation.short),
    ]
    return [markdown_table(OUTCOME_HEADER, rows)]


def plot(facts: dict[str, Any], ablation: Ablation, runs: Path, path: Path) -> None:
    """The baseline at its best rate in black, the changed model at each rate in colours."""
    first = outcomes_of(facts["baseline"])[0]
    curves = [Curve(first, f"baseline, rate {first.learning_rate:g}: {first.loss:.3f}", "-", "black")]
    curves += [
        Curve(
            outcome,
            f"{ablation.short}, rate {outcome.learning_rate:g}"
            + (" (diverged)" if outcome.diverged else f": {outcome.loss:.3f}"),
            "--" if outcome.diverged else "-",
            colour,
        )
        for outcome, colour in zip(
            outcomes_of(facts["tried"]), ("tab:blue", "tab:orange", "tab:green", "tab:red"), strict=False
        )
    ]
    plot_curves(curves, runs, facts["floor"], path)


ABLATIONS = {
    "no-norm": Ablation(
        "Removing the norms", "no norm", lambda _: {"norm": "none"}, {"norm": _NORMS}, lower=2, higher=0
    ),
    "post-norm": Ablation(
        "Post-norm",
        "post-norm",
        lambda _: {"norm_position": "post"},
        {"norm": _NORMS, "norm_position": ("pre",)},
    ),
    "no-position": Ablation(
        "Removing the positions",
        "no positions",
        lambda _: {"position": "none"},
        {"position": ("rope", "learned", "sinusoidal")},
    ),
    "silu": Ablation(
        "SiLU in place of SwiGLU",
        "SiLU",
        # Two matrices in place of three: 4 d_model where SwiGLU has 8/3.
        lambda model: {"ffn": "silu", "d_ff": math.ceil(1.5 * (model.d_ff or 0))},
        {"ffn": ("swiglu",)},
    ),
    "parallel": Ablation(
        "Running attention and feed-forward in parallel",
        "parallel",
        lambda _: {"block": "parallel"},
        {"block": ("sequential",)},
        timed=True,
    ),
}
