"""The learning rate: a sweep up to where training diverges."""

from pathlib import Path
from typing import Any

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

# If nothing diverges at the highest rate, higher ones are tried, so many times.
_FURTHER, _MOST_FURTHER = 10.0, 8
# Two rates no further apart than this are neighbours.
_NEAR = 10.0


def run(runs: Runs) -> dict[str, Any]:
    """Sweep the rates, go on upwards until a run diverges, and repeat the best with other seeds."""
    tried = runs.sweep()
    best_rate = runs.best_rate()
    for _ in range(_MOST_FURTHER):
        if tried[-1].diverged:
            break
        tried.append(runs.train(learning_rate=float(f"{tried[-1].learning_rate * _FURTHER:.3g}")))
    return {
        "tried": as_facts(tried),
        "repeated": as_facts(runs.repeated(learning_rate=best_rate)),
        "floor": runs.floor,
    }


def findings(facts: dict[str, Any]) -> list[str]:
    """What the sweep says, in sentences."""
    tried, repeated = outcomes_of(facts["tried"]), outcomes_of(facts["repeated"])
    best = best_of(tried)
    assert best is not None
    losses = Losses.of(repeated)
    said = [
        f"**The best of {len(tried)} rates is {best.learning_rate:g}**, with a validation loss of "
        f"{mean_loss(losses)}{_edge(tried, best)}. {_width(tried, best, losses)}"
    ]
    diverged = [o for o in tried if o.diverged and o.learning_rate > best.learning_rate]
    stable = [outcome for outcome in tried if not outcome.diverged]
    if not diverged:
        said.append(
            f"**No rate up to {tried[-1].learning_rate:g} makes training diverge**, so these runs do not show "
            "where the edge of stability is."
        )
        return said
    first = diverged[0]
    ratio = first.learning_rate / best.learning_rate
    times = f"{ratio:.3g}" if ratio < 1000 else f"{ratio:,.0f}"
    if first is not tried[tried.index(best) + 1]:
        where = "**The best rate is not at the edge of stability**: training diverges only at "
    elif ratio <= _NEAR:
        where = "**The best rate is at the edge of stability**: training diverges at the next rate tried, "
    else:
        where = (
            "**Whether the best rate is at the edge of stability is open**: training diverges at the next rate tried, "
            "but that is far, "
        )
    said.append(f"{where}{first.learning_rate:g}, {times} times as high ({loss_or_fate(first)}).")
    if any(outcome.learning_rate > first.learning_rate for outcome in stable):
        higher = [f"{o.learning_rate:g}" for o in stable if o.learning_rate > first.learning_rate]
        said.append(f"Yet at {listed(higher)} it does not: beyond the edge, what happens is chance.")
    unstable = [o for o in tried if o.unstable and best.learning_rate < o.learning_rate]
    if unstable:
        lowest = unstable[0]
        said.append(
            f"**Instability begins at {lowest.learning_rate:g}**, {lowest.learning_rate / best.learning_rate:.3g} "
            f"times the best rate: the training loss rises to {lowest.highest_loss:,.1f} there, and comes down again."
        )
    between = [o for o in stable if best.learning_rate < o.learning_rate < first.learning_rate]
    if between:
        worst = max(between, key=lambda outcome: outcome.loss)
        said.append(
            f"In between, training is not lost but worse: at {worst.learning_rate:g} it ends at {worst.loss:.4f}, "
            f"{worst.loss - best.loss:.2f} above the best."
        )
    return said


def _edge(tried: list[Outcome], best: Outcome) -> str:
    for end, word in ((tried[0], "lowest"), (tried[-1], "highest")):
        if best is end:
            return f", **which is the {word} tried: a better one may lie beyond**"
    return ""


def _width(tried: list[Outcome], best: Outcome, losses: Losses) -> str:
    """Which other rates are as good, as far as the repetitions can tell."""
    noise = chance(losses)
    if noise is None:
        return "It was run with one seed, so how much of that is chance is not known."
    alike = [f"{o.learning_rate:g}" for o in tried if o is not best and o.loss - best.loss <= noise]
    told = f"The seed alone moves the loss by {noise:.4f}; "
    return told + (
        f"by no more, {listed(alike)} {'is' if len(alike) == 1 else 'are'} worse."
        if alike
        else "every other rate is worse by more than that."
    )


def tables(facts: dict[str, Any]) -> list[str]:
    """Every run."""
    tried, repeated = outcomes_of(facts["tried"]), outcomes_of(facts["repeated"])
    names = {outcome.name for outcome in tried}
    others = [outcome for outcome in repeated if outcome.name not in names]
    return [markdown_table(OUTCOME_HEADER, outcome_rows([*tried, *others]))]


def plot(facts: dict[str, Any], runs: Path, path: Path) -> None:
    """A curve for each rate, from blue (low) to red (high); dashed where it diverged."""
    from matplotlib import colormaps

    tried = outcomes_of(facts["tried"])
    curves = [
        Curve(
            outcome,
            f"rate {outcome.learning_rate:g}"
            + (" (diverged)" if outcome.diverged else f": {outcome.loss:.3f}"),
            "--" if outcome.diverged else "-",
            colormaps["turbo"](i / max(1, len(tried) - 1)),
        )
        for i, outcome in enumerate(tried)
    ]
    plot_curves(curves, runs, facts["floor"], path)
