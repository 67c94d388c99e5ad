"""The report of experiments in Markdown: tables and plots, computed from the results."""

from typing import Any

from lm.experiment.catalogue import EXPERIMENTS
from lm.experiment.outcomes import DIVERGED_ABOVE
from lm.tables import markdown_table

_ABOUT = (
    "Losses are in nats per token. Tables show the loss on the validation text, plots the smoothed loss of training "
    "batches. A run has diverged if a loss or a gradient norm is not finite, or if its validation loss ends more than "
    f"{DIVERGED_ABOVE - 1:.0%} above ln V, the loss of equal probabilities for all tokens."
)


def report(results: dict[str, Any]) -> str:
    """Return the page of all experiments that `results` holds. Its plots are NAME.png beside the page."""
    runs = _all_runs(results)
    made = {name: str(fact) for name, fact in results["machine"].items()}
    made |= {"training runs": str(len(runs)), "minutes of training": f"{sum(s for _, s in runs) / 60:.1f}"}
    parts = ["# Experiments", _ABOUT, markdown_table(list(made), [list(made.values())])]
    for name in (name for name in EXPERIMENTS if name in results):
        parts += section(name, results[name])
    return "\n\n".join(parts) + "\n"


def section(name: str, facts: dict[str, Any]) -> list[str]:
    """Return the title, the caption, the plot and the tables of an experiment."""
    experiment = EXPERIMENTS[name]
    return [
        f"## {experiment.title}",
        experiment.caption,
        f"![{experiment.title}]({name}.png)",
        *experiment.tables(facts),
    ]


def _all_runs(value: Any) -> set[tuple[str, float]]:
    """Return the name and the seconds of each run, wherever in the results it is."""
    if isinstance(value, dict):
        if "not_finite_at" in value:
            return {(value["name"], value["seconds"])}
        value = list(value.values())
    return set().union(*map(_all_runs, value)) if isinstance(value, list) else set()
