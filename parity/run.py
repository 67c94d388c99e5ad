"""Compare torch, JAX and the oracle case by case, and report the worst of many cases: what `lm parity` prints."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm.budgets import EPSILON, ULPS, Dtype, relative_error, ulps
from lm.config import ModelConfig, TrainConfig
from parity.backends import Evaluate, evaluator
from parity.case import MASKS, POSITIONS, SCALES, Arrays, Case
from parity.layers import LAYERS
from parity.problem import Problem

PAIRS = ("torch-oracle", "jax-oracle", "torch-jax")


@dataclass(frozen=True)
class Error:
    """One comparison: the error, and its budget."""

    layer: str
    direction: str
    """"forward", "gradient", or "ULPs": the forward error of an element-wise function in units in the last place."""
    pair: str
    error: float
    budget: float
    array: str
    """What was compared: "output", or the array whose gradient it is."""
    case: Case

    @property
    def passed(self) -> bool:
        """Whether the error is within the budget; NaN is not."""
        return self.error <= self.budget


def evaluators() -> dict[str, Evaluate]:
    """Set up both backends with float64, and return their evaluate functions. This imports both frameworks."""
    config = TrainConfig(ModelConfig(1, 1, 2, 1, 1), compute_dtype="float64")
    return {"torch": evaluator("torch", config), "jax": evaluator("jax", config)}


Modes = Sequence[tuple[str, str]]
"""Pairs of a mode of torch and a mode of JAX (`evaluate` of `parity.in_torch` and `parity.in_jax`)."""


def modes_of(case: Case) -> Modes:
    """Return the modes in which a case is compared: both backends with the fast forms, then both without.

    A whole model takes XLA seconds to compile. So JAX takes such a case in one of its modes, which the seed chooses.
    """
    if LAYERS[case.layer].whole_model:
        return [(mode, "jit" if case.seed % 3 else "plain") for mode in ("eager", "plain")]
    return [("eager", "jit"), ("plain", "plain")]


def compare(case: Case, dtype: Dtype, modes: Modes | None = None) -> Iterator[Error]:
    """Yield the errors of every output and gradient of a case: each backend to the oracle, and torch to JAX.

    Args:
        modes: By default those of `modes_of`.
    """
    problem = Problem(case, dtype)
    evaluate = evaluators()
    args = case.layer, problem.given, problem.cotangent, dtype
    for torch_mode, jax_mode in modes or modes_of(case):
        answers: dict[str, tuple[Any, Arrays]] = {
            "torch": evaluate["torch"](*args, torch_mode),
            "jax": evaluate["jax"](*args, jax_mode),
            "oracle": (problem.output, problem.gradients),
        }
        for pair in PAIRS:
            a, b = (answers[name] for name in pair.split("-"))
            yield from differences(problem, pair, a, b)


def differences(problem: Problem, pair: str, a: tuple[Any, Arrays], b: tuple[Any, Arrays]) -> Iterator[Error]:
    """Yield the errors of a problem's output and gradients between two implementations, named by `pair`."""
    case, (a_output, a_gradients), (b_output, b_gradients) = problem.case, a, b
    error = relative_error(a_output, b_output)
    yield Error(case.layer, "forward", pair, error, problem.bound(), "output", case)
    if LAYERS[case.layer].element_wise:
        off = ulps(a_output, b_output, problem.dtype)
        yield Error(case.layer, "ULPs", pair, off, ULPS, "output", case)
    for name, exact in problem.gradients.items():
        error = relative_error(a_gradients[name], b_gradients[name], problem.flow, exact, problem.zero)
        yield Error(case.layer, "gradient", pair, error, problem.bound(name), name, case)


def random_cases(layer: str, count: int, seed: int) -> list[Case]:
    """Draw cases of a layer, which take its shapes in turn."""
    rng = np.random.default_rng(seed)
    shapes = LAYERS[layer].shapes
    return [
        Case(
            layer,
            shapes[i % len(shapes)],
            int(rng.integers(2**32)),
            SCALES[rng.integers(len(SCALES))],
            MASKS[rng.integers(len(MASKS))],
            POSITIONS[rng.integers(len(POSITIONS))],
        )
        for i in range(count)
    ]


def run_parity(
    dtype: Dtype, cases: int = 10, seed: int = 0, layers: Sequence[str] = (), show: bool = False
) -> list[Error]:
    """Return the worst comparison of each layer, direction and pair, over random cases of each layer.

    Args:
        cases: Number of cases of each layer; a quarter of it if each case is a model of its own.
        layers: Names of layers; all layers by default.
        show: Print each layer's lines of the table as soon as they are known.
    """
    if show:
        print(_HEADER)
    found: list[Error] = []
    for layer in layers or [name for name, layer in LAYERS.items() if dtype in layer.dtypes]:
        worst: dict[tuple[str, str], Error] = {}
        count = math.ceil(cases / 4) if LAYERS[layer].of_variants else cases
        for case in random_cases(layer, count, seed):
            for error in compare(case, dtype):
                key = error.direction, error.pair
                if key not in worst or not error.error <= worst[key].error:
                    worst[key] = error
        found += worst.values()
        if show:
            print("\n".join(_lines(list(worst.values()))), flush=True)
    return found


_HEADER = (
    f"{'layer':34} {'':8} " + " ".join(f"{pair:>12}" for pair in PAIRS) + f" {'budget':>7}        worst case"
)


def _lines(errors: Sequence[Error]) -> Iterator[str]:
    """Yield the table's lines of one layer: one for each direction."""
    for direction in dict.fromkeys(error.direction for error in errors):
        row = {error.pair: error for error in errors if error.direction == direction}
        worst = max(row.values(), key=lambda error: error.error)
        verdict = "pass" if all(error.passed for error in row.values()) else "FAIL"
        yield (
            f"{worst.layer:34} {direction:8} "
            + " ".join(f"{row[pair].error:12.1e}" for pair in PAIRS)
            + f" {worst.budget:7.0e}  {verdict}  {worst.array} of {worst.case.label}"
        )


def as_json(errors: Sequence[Error]) -> list[dict[str, Any]]:
    """Return the errors behind the table. An error that is not finite is a string, since JSON has no number for it."""
    return [
        {**asdict(e), "error": e.error if math.isfinite(e.error) else str(e.error), "passed": e.passed}
        for e in errors
    ]


def plot(errors: Sequence[Error], dtype: Dtype, file: Path) -> None:
    """Draw the table as a heat map of log10 of the error; a cell over its budget has a red frame."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    layers = list(dict.fromkeys(error.layer for error in errors))
    columns = [(direction, pair) for direction in ("forward", "gradient") for pair in PAIRS]
    cells = {(e.layer, e.direction, e.pair): e for e in errors}
    values = np.full((len(layers), len(columns)), np.nan)
    figure, axes = pyplot.subplots(figsize=(9.5, 1.7 + 0.36 * len(layers)), layout="constrained")
    budgets = [e.budget for e in errors if e.direction != "ULPs"]
    lowest, highest = math.log10(EPSILON[dtype] / 8), math.log10(max(budgets))
    for i, layer in enumerate(layers):
        for j, (direction, pair) in enumerate(columns):
            error = cells.get((layer, direction, pair))
            if error is None:
                continue
            values[i, j] = math.log10(error.error) if error.error else lowest
            text = f"{error.error:.0e}" if error.error else "0"
            dark = values[i, j] < (lowest + highest) / 2
            axes.text(j, i, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")
            if not error.passed:
                axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=2))
    image = axes.imshow(values, cmap="viridis", vmin=lowest, vmax=highest, aspect="auto")
    axes.set_xticks(range(len(columns)), [f"{d}\n{p.replace('-', ' - ')}" for d, p in columns], fontsize=9)
    axes.set_yticks(range(len(layers)), layers, fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.axvline(2.5, color="white", linewidth=3)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, label="log10 of the worst error, norm-wise", shrink=0.8)
    figure.suptitle(f"How far apart: torch, JAX and the float64 oracle, in {dtype}")
    figure.savefig(file, dpi=150, format="png")
    pyplot.close(figure)
