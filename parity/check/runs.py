"""Compare two training runs: where they part, and whether rounding explains it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm.budgets import BUDGETS, Dtype, relative_error
from lm.config import TrainConfig
from lm.init import parameter_shapes
from lm.run import checkpoint
from lm.run.facts import flat_settings, load_facts
from lm.run.leaves import read_leaves
from lm.run.metrics import read_metrics
from tokenizer.errors import InputError

QUANTITIES = ("train_loss", "grad_norm")
GROWTH = 4.0
"""Most by which rounding grows in a step. The chaotic runs of docs/parity.md, "How runs diverge", double it."""
SHOWN = 12
"""Steps in the table."""
OF_NUMBERS = ("model.", "optimizer.")
"""Settings that decide a run's numbers, by how their names begin, and these."""
FURTHER = ("seed", "batch_size", "compute_dtype", "micro_batch_size", "loss_mask")


@dataclass(frozen=True)
class Step:
    """What two runs logged for one step: the relative difference of each quantity."""

    step: int
    loss: float
    grad_norm: float

    @property
    def worst(self) -> float:
        """The larger difference."""
        return max(self.loss, self.grad_norm)


@dataclass(frozen=True)
class Leaf:
    """The weight that differs at the first common checkpoint with a difference."""

    name: str
    step: int
    error: float
    worst_name: str
    worst: float
    """Largest relative difference of a weight at that checkpoint."""


@dataclass(frozen=True)
class RunsVerdict:
    """Two runs beside each other."""

    steps: tuple[Step, ...]
    thresholds: dict[str, float]
    """Largest difference that rounding makes within one step, by quantity."""
    settings: tuple[str, ...]
    """Settings that decide the numbers and differ: "optimizer.learning_rate: 0.001 and 0.003"."""
    leaf: Leaf | None = None

    @property
    def parted(self) -> Step | None:
        """The first step that differs by more than one step's rounding."""
        return next((s for s in self.steps if self.over(s)), None)

    @property
    def is_off(self) -> bool:
        """Whether rounding does not explain the difference."""
        return not self.rounding_explains

    @property
    def rounding_explains(self) -> bool:
        """Whether no step parts the runs abruptly: the difference begins within rounding, and grows gradually."""
        allowed = dict(self.thresholds)
        before = self.steps[0].step if self.steps else 0
        for s in self.steps:
            growth = GROWTH ** min(s.step - before, 100)
            allowed = {name: max(self.thresholds[name], error * growth) for name, error in allowed.items()}
            if not (s.loss <= allowed["train_loss"] and s.grad_norm <= allowed["grad_norm"]):
                return False
            # The weights pass a difference of one quantity on to the other.
            allowed = dict.fromkeys(allowed, max(s.worst, 0.0))
            before = s.step
        return True

    def over(self, s: Step) -> bool:
        """Return whether a step differs by more than one step's rounding."""
        return not (s.loss <= self.thresholds["train_loss"] and s.grad_norm <= self.thresholds["grad_norm"])


def run_runs(a: Path, b: Path) -> RunsVerdict:
    """Compare two run folders.

    Raises:
        InputError: a folder is no run, or the runs have no step in common.
    """
    (config, found), (config_b, found_b) = (_read(run) for run in (a, b))
    logged = {s: (found[s], found_b[s]) for s in sorted(found.keys() & found_b.keys())}
    steps = [Step(s, *(_difference(x[name], y[name]) for name in QUANTITIES)) for s, (x, y) in logged.items()]
    if not steps:
        raise InputError(f"{a} and {b} have no step in common: log the same steps in both (log_interval)")
    dtypes: list[Dtype] = [config.compute_dtype, config_b.compute_dtype]
    least = max((BUDGETS[dtype] for dtype in dtypes), key=lambda budget: budget.model_forward)
    thresholds = {"train_loss": least.model_forward, "grad_norm": least.model_gradient}
    return RunsVerdict(
        tuple(steps), thresholds, _settings(config, config_b), _first_leaf(a, b, least.model_forward)
    )


def _read(run: Path) -> tuple[TrainConfig, dict[int, dict[str, Any]]]:
    """Return a run's config and its logged steps."""
    records = {r["step"]: r for r in read_metrics(run) if all(name in r for name in QUANTITIES)}
    if not records:
        raise InputError(
            f"{run} has no metrics.jsonl with training steps: give the folder of a run (lm train --out)"
        )
    config, _ = load_facts(checkpoint.latest(run), verify=False)
    return config, records


def _difference(a: float | None, b: float | None) -> float:
    """Return |a - b| / |b|; infinity if one of them is not a number."""
    if a is None or b is None or not (math.isfinite(a) and math.isfinite(b)):
        return 0.0 if a == b or (a != a and b != b) else math.inf
    return abs(a - b) / max(abs(b), 1e-30) if a != b else 0.0


def _settings(a: TrainConfig, b: TrainConfig) -> tuple[str, ...]:
    ours, theirs = flat_settings(a), flat_settings(b)
    return tuple(
        f"{name}: {ours[name]!r} and {theirs[name]!r}"
        for name in ours
        if ours[name] != theirs[name] and (name.startswith(OF_NUMBERS) or name in FURTHER)
    )


def _first_leaf(a: Path, b: Path, threshold: float) -> Leaf | None:
    """Return the first weight that differs at the first common checkpoint with a difference over the threshold."""
    ours, theirs = (
        {int(p.name.removeprefix("step-")): p for p in checkpoint.find_all(run)} for run in (a, b)
    )
    leaf = None
    for step in sorted(ours.keys() & theirs.keys()):
        left, right = _weights(ours[step]), _weights(theirs[step])
        if left.keys() != right.keys() or any(left[n].shape != right[n].shape for n in left):
            raise InputError(f"{a} and {b} are runs of two models: their weights differ in names or shapes")
        errors = {name: relative_error(left[name], right[name]) for name in left}
        worst = max(errors, key=errors.__getitem__)
        first = next((name for name, error in errors.items() if error > threshold), worst)
        leaf = Leaf(first, step, errors[first], worst, errors[worst])
        if errors[worst] > threshold:
            return leaf
    return leaf


def _weights(path: Path) -> dict[str, np.ndarray]:
    config, _ = load_facts(path)
    expected = {name: (shape, config.param_dtype) for name, shape in parameter_shapes(config.model).items()}
    return {
        n: np.asarray(leaf[...], np.float64) for n, leaf in read_leaves(path / "model.safetensors", expected)
    }


def lines(verdict: RunsVerdict) -> list[str]:
    """Return what is printed."""
    out = [f"differs: {setting}" for setting in verdict.settings]
    out.append(f"{'step':>8}  {'loss':>8}  {'gradient norm':>13}   (relative differences)")
    out += [f"{s.step:8}  {s.loss:8.0e}  {s.grad_norm:13.0e}" for s in _shown(verdict)]
    leaf, parted = verdict.leaf, verdict.parted
    if leaf:
        out.append(
            f"weights at step {leaf.step}: {leaf.name} differs by {leaf.error:.0e}, "
            f"most of all {leaf.worst_name} by {leaf.worst:.0e}"
        )
    limit = ", ".join(f"{name} {value:.0e}" for name, value in verdict.thresholds.items())
    if parted is None:
        return [*out, f"pass: the runs stay together (thresholds of one step's rounding: {limit})"]
    out.append(f"step {parted.step} is the first that differs by more than one step's rounding ({limit})")
    if verdict.rounding_explains:
        return [
            *out,
            'pass: rounding explains it, since the difference grows gradually (docs/parity.md, "How runs diverge")',
        ]
    return [*out, f"OFF: rounding does not explain it. {_meaning(verdict, parted)}"]


def _meaning(verdict: RunsVerdict, parted: Step) -> str:
    """Say what a difference at this step points to."""
    first = verdict.steps[0]
    if verdict.settings:
        return "The runs have different settings."
    if parted.loss <= verdict.thresholds["train_loss"]:
        return "The losses agree where the gradient norms part: look at the backward pass, or at how the norm is taken."
    if parted is first:
        return "The first common losses differ: look at the weights, the batch and the forward pass."
    return (
        f"Up to the logged step before {parted.step} the runs agree: look at the optimizer, the learning rate, and the "
        f"batch of step {parted.step}."
    )


def _shown(verdict: RunsVerdict) -> Sequence[Step]:
    """Return some steps: spread evenly, with the first that parts."""
    n = len(verdict.steps)
    chosen = {round(i) for i in np.linspace(0, n - 1, min(n, SHOWN))}
    if verdict.parted:
        chosen.add(verdict.steps.index(verdict.parted))
    return [verdict.steps[i] for i in sorted(chosen)]


def as_json(verdict: RunsVerdict) -> dict[str, Any]:
    """Return the verdict for --json. A number that is not finite is null."""
    leaf = verdict.leaf
    return {
        "status": "off" if verdict.is_off else "pass",
        "rounding_explains": verdict.rounding_explains,
        "thresholds": verdict.thresholds,
        "settings": list(verdict.settings),
        "first_step": verdict.parted.step if verdict.parted else None,
        "leaf": {"name": leaf.name, "step": leaf.step, "error": _finite(leaf.error)} if leaf else None,
        "steps": [
            {"step": s.step, "train_loss": _finite(s.loss), "grad_norm": _finite(s.grad_norm)}
            for s in verdict.steps
        ],
    }


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


def draw(verdict: RunsVerdict, path: Path) -> None:
    """Draw the relative differences over the steps."""
    from lm.experiment.plot import open_plot

    with open_plot(path) as axes:
        for i, (name, values) in enumerate(
            (
                ("loss", [s.loss for s in verdict.steps]),
                ("gradient norm", [s.grad_norm for s in verdict.steps]),
            )
        ):
            axes.plot([s.step for s in verdict.steps], values, color=f"C{i}", label=name)
            axes.axhline(
                list(verdict.thresholds.values())[i], color=f"C{i}", linestyle=":", label=f"rounding, {name}"
            )
        axes.set_yscale("log", nonpositive="clip")
        axes.set_xlabel("step")
        axes.set_ylabel("relative difference")
