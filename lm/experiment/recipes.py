"""Recipes: which options lower the loss, if each is trained for as long as the baseline."""

import dataclasses
import math
import statistics
from pathlib import Path
from typing import Any

from lm.config import ModelConfig, OptimizerConfig, TrainConfig
from lm.experiment.optimizer import best_muon
from lm.experiment.outcomes import as_facts, mean_loss, outcomes_of
from lm.experiment.plot import open_plot
from lm.experiment.runs import Changes, Runs, apply_changes
from lm.files import read_object, write_json
from lm.tables import markdown_table

NEEDS = {"optimizer.kind": ("adamw",)}
"""What the baseline must be."""
TOGETHER = "all that helped"


def options(config: TrainConfig) -> dict[str, Changes]:
    """Return the options of a baseline by name, each a set of changes. Options that the baseline has are left out."""
    model, o = config.model, config.optimizer
    assert model.num_kv_heads is not None
    assert model.d_ff is not None
    gated = model.ffn in ("swiglu", "geglu_tanh")
    # An average over the last twentieth of the run.
    average_decay = float(f"{max(0.1, 1 - 20 / config.steps):.3g}")
    found: dict[str, Changes] = {
        "AdamW as in torch": {"adamw": "torch"},
        "AdamW of 2026": {"adamw": "course-2026"},
        "rate falls to 0": {"min_learning_rate": 0.0},
        "warm-up, stable, decay": {"schedule": "warmup-stable-decay"},
        "average of the weights": {"average_decay": average_decay},
        "z-loss": {"z_loss": 1e-4},
        "soft cap of logits": {"logit_softcap": 30.0},
        # Two matrices replace the three of a gate.
        "ReLU squared": {"ffn": "relu2", "d_ff": math.ceil(1.5 * model.d_ff) if gated else model.d_ff},
        "norms of queries and keys": {"qk_norm": True},
        "norms after branches": {"norm_position": "branch"},
        "tied embeddings": {"tie_embeddings": True},
        "half the heads of keys and values": {"num_kv_heads": max(1, model.num_kv_heads // 2)},
        "parallel blocks": {"block": "parallel"},
        "packed documents": {"documents": "packed"},
    }
    half = config.batch_size // 2
    if half and config.batch_size % 2 == 0 and half % config.grad_accumulation == 0:
        # Adam's rate follows the root of the batch (Malladi et al., 2022).
        found["half the batch"] = {
            "batch_size": half,
            "learning_rate": float(f"{o.learning_rate * math.sqrt(0.5):.3g}"),
            "min_learning_rate": float(f"{o.min_learning_rate * math.sqrt(0.5):.3g}"),
        }
    if model.norm == "none":
        del found["norms after branches"]
    return {name: changes for name, changes in found.items() if apply_changes(config, changes) != config}


def run(runs: Runs) -> dict[str, Any]:
    """Train each option with all seeds for the time of the baseline, and then all that helped together."""
    rate = runs.best_rate()
    # The options change a baseline whose rate is the best one.
    config = apply_changes(runs.plan.config, {"learning_rate": rate})
    muon, _ = best_muon(runs)
    recipes = {"Muon": muon} | {name: {"learning_rate": rate} | c for name, c in options(config).items()}
    baseline = runs.repeat(learning_rate=rate)
    trials = {name: _try(runs, name, changes, rate) for name, changes in recipes.items()}
    facts = {"best_rate": rate, "baseline": as_facts(baseline), "options": trials, "floor": runs.floor}
    if len(helpful(facts)) > 1:
        trials[TOGETHER] = _try(runs, TOGETHER, combined(facts), rate)
    return facts


def _try(runs: Runs, name: str, changes: Changes, rate: float) -> dict[str, Any]:
    """Return the time of an option's step, and the runs that take as long as the baseline's."""
    seconds = _step_seconds(runs, name, changes, rate)
    steps = max(1, round(runs.plan.config.steps / step_ratio(seconds)))
    return {
        "changes": changes,
        "step_seconds": seconds,
        "outcomes": as_facts(runs.repeat(**changes, steps=steps)),
    }


def _step_seconds(runs: Runs, name: str, changes: Changes, rate: float) -> dict[str, list[float]]:
    """Measure the steps of the baseline and of an option, or read what was measured.

    The time decides how long the runs are, so a later call must find the same time.
    """
    file = runs.out / "step-seconds.json"
    measured = read_object(file, "delete it, and the same command measures again") if file.exists() else {}
    if name not in measured:
        measured[name] = runs.step_seconds({"baseline": {"learning_rate": rate}, "option": changes})
        write_json(file, measured)
    seconds: dict[str, list[float]] = measured[name]
    return seconds


def step_ratio(seconds: dict[str, list[float]]) -> float:
    """Return the time of an option's step as a multiple of the baseline's: the median of the ratios in a round.

    The ratio is 1 if two or more rounds contradict it: other work on the machine then explains the difference, and it
    would give the option more or fewer steps than it deserves.

    >>> step_ratio({"baseline": [1.0] * 5, "option": [1.1, 1.2, 1.1, 1.1, 0.9]})
    1.1
    >>> step_ratio({"baseline": [1.0] * 5, "option": [1.1, 1.2, 1.1, 0.8, 0.9]})
    1.0
    """
    ratios = [b / a for a, b in zip(seconds["baseline"], seconds["option"], strict=True)]
    slower, faster = sum(ratio > 1 for ratio in ratios), sum(ratio < 1 for ratio in ratios)
    return statistics.median(ratios) if min(slower, faster) < 2 else 1.0


def gains(facts: dict[str, Any], name: str) -> list[float]:
    """Return how far an option's loss is below the baseline's with each seed; -infinity if the option diverged."""
    pairs = zip(outcomes_of(facts["baseline"]), outcomes_of(facts["options"][name]["outcomes"]), strict=True)
    return [baseline.loss - option.loss for baseline, option in pairs]


def gain(facts: dict[str, Any], name: str) -> float:
    """Return the mean gain of an option over the seeds."""
    return statistics.fmean(gains(facts, name))


def is_beyond_chance(facts: dict[str, Any], name: str) -> bool:
    """Return whether the size of the mean gain exceeds the highest minus the lowest gain of the seeds.

    With three seeds, chance alone exceeds it about once in 20 options.
    """
    of_seeds = gains(facts, name)
    return len(of_seeds) > 1 and abs(statistics.fmean(of_seeds)) > max(of_seeds) - min(of_seeds)


def helpful(facts: dict[str, Any]) -> list[str]:
    """Return the options with a gain beyond chance, the largest gain first."""
    names = [name for name in facts["options"] if gain(facts, name) > 0 and is_beyond_chance(facts, name)]
    return sorted((name for name in names if name != TOGETHER), key=lambda name: -gain(facts, name))


def combined(facts: dict[str, Any]) -> Changes:
    """Return the changes of all options that helped. If two change one setting, the one that gains more decides."""
    changes: Changes = {}
    for name in helpful(facts):
        changes = facts["options"][name]["changes"] | changes
    return changes


def flags(changes: Changes) -> str:
    """Return changes as flags of `lm train`.

    >>> flags({"learning_rate": 0.01, "qk_norm": True, "z_loss": 0.0001})
    '--optimizer.learning-rate 0.01 --model.qk-norm --z-loss 0.0001'
    """
    parts = []
    for name, value in changes.items():
        table = next(
            (
                f"{table}."
                for table, part in (("model", ModelConfig), ("optimizer", OptimizerConfig))
                if name in {field.name for field in dataclasses.fields(part)}
            ),
            "",
        )
        parts.append(f"--{table}{name.replace('_', '-')}" + ("" if value is True else f" {value}"))
    return " ".join(parts)


def tables(facts: dict[str, Any]) -> list[str]:
    """Return what each option gains, the largest gain first, and the flags that each adds to the baseline's."""
    baseline = outcomes_of(facts["baseline"])
    floor = facts["floor"] or 0.0
    what = "mean loss" if facts["floor"] is None else "above the floor"
    head = ("option", "time of a step", "steps", what, "gain", "lowest to highest", "beyond chance")
    names = sorted(facts["options"], key=lambda name: -gain(facts, name))
    rows = [["baseline", "1.000", f"{baseline[0].steps:,}", _number(mean_loss(baseline) - floor), *"---"]]
    rows += [_row(facts, name, floor) for name in names]
    rate = facts["best_rate"]
    commands = [["baseline", f"`{flags({'learning_rate': rate})}`"]]
    for name in names:
        changes = facts["options"][name]["changes"]
        added = {key: value for key, value in changes.items() if (key, value) != ("learning_rate", rate)}
        commands.append([name, f"`{flags(added)}`"])
    return [markdown_table(head, rows), markdown_table(("option", "flags of lm train"), commands)]


def _row(facts: dict[str, Any], name: str, floor: float) -> list[str]:
    trial, of_seeds = facts["options"][name], gains(facts, name)
    outcomes = outcomes_of(trial["outcomes"])
    cells = [_number(mean_loss(outcomes) - floor), *"---"]
    if all(map(math.isfinite, of_seeds)):
        cells[1:] = [
            f"{gain(facts, name):+.4f}",
            f"{min(of_seeds):+.4f} to {max(of_seeds):+.4f}",
            "yes" if is_beyond_chance(facts, name) else "no",
        ]
    return [name, f"{step_ratio(trial['step_seconds']):.3f}", f"{max(o.steps for o in outcomes):,}", *cells]


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"


def plot(facts: dict[str, Any], path: Path) -> None:
    """Draw a bar for the mean gain of each option, and a dot for each seed."""
    means = {name: gain(facts, name) for name in facts["options"]}
    names = sorted((name for name in means if math.isfinite(means[name])), key=lambda name: means[name])
    with open_plot(path, height=1.5 + 0.3 * len(names)) as axes:
        axes.barh(names, [means[name] for name in names], color="C0", alpha=0.7, label="mean of the seeds")
        dots = [(one, name) for name in names for one in gains(facts, name)]
        axes.plot(*zip(*dots, strict=True), "o", color="C1", markersize=4, label="each seed")
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel("gain in nats per token, at equal training time")
