"""Compare torch, JAX and the oracle, a case at a time, and report the worst of many: what `lm parity` prints."""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm.backend import load
from lm.config import ModelConfig, TrainConfig
from lm.parity.budgets import ULPS, Dtype, relative_error, ulps
from lm.parity.cases import LAYERS, MASKS, POSITIONS, SCALES, Case

PAIRS = ("torch-oracle", "jax-oracle", "torch-jax")


@dataclass(frozen=True)
class Error:
    """One comparison: how far apart, and how far apart it may be."""

    layer: str
    direction: str
    """Forward, gradient, or ULPs of an element-wise function's forward."""
    pair: str
    error: float
    budget: float
    array: str
    """What was compared: the output, or the array that the gradient is with respect to."""
    case: Case

    @property
    def passed(self) -> bool:
        """Whether the error is within the budget; NaN is not."""
        return self.error <= self.budget


def evaluators() -> dict[str, Any]:
    """The evaluate function of each backend, float64 switched on. Imports both frameworks."""
    config = TrainConfig(ModelConfig(1, 1, 2, 1, 1), compute_dtype="float64")
    functions = {}
    for name in ("torch", "jax"):
        load(name, config)
        functions[name] = importlib.import_module(f"{name}_impl.parity").evaluate
    return functions


def compare(case: Case, dtype: Dtype, torch_mode: str = "eager", jax_mode: str = "jit") -> Iterator[Error]:
    """Every output and every gradient of a case: each backend against the oracle, and torch against JAX."""
    problem = case.problem(dtype)
    modes = {"torch": torch_mode, "jax": jax_mode}
    answers = {
        name: evaluate(case.layer, problem.given, problem.cotangent, dtype, modes[name])
        for name, evaluate in evaluators().items()
    } | {"oracle": (problem.output, problem.gradients)}
    for pair in PAIRS:
        (a_output, a_gradients), (b_output, b_gradients) = (answers[name] for name in pair.split("-"))
        error = relative_error(a_output, b_output)
        yield Error(case.layer, "forward", pair, error, problem.bound(), "output", case)
        if LAYERS[case.layer].element_wise:
            yield Error(case.layer, "ULPs", pair, ulps(a_output, b_output, dtype), ULPS, "output", case)
        for name in problem.gradients:
            error = relative_error(a_gradients[name], b_gradients[name], problem.flow)
            yield Error(case.layer, "gradient", pair, error, problem.bound(name), name, case)


def random_cases(layer: str, count: int, seed: int) -> list[Case]:
    """Cases of a layer, all its shapes among them."""
    rng = np.random.default_rng(seed)
    shapes = LAYERS[layer].shapes
    return [
        Case(
            layer,
            shapes[i % len(shapes)],
            int(rng.integers(2**32)),
            *(options[rng.integers(len(options))] for options in (SCALES, MASKS, POSITIONS)),
        )
        for i in range(count)
    ]


def run_parity(dtype: Dtype, cases: int = 12, seed: int = 0, layers: Sequence[str] = ()) -> list[Error]:
    """The worst comparison of each layer, direction and pair, over so many random cases of each layer."""
    worst: dict[tuple[str, str, str], Error] = {}
    for layer in layers or LAYERS:
        for case in random_cases(layer, cases, seed):
            for error in compare(case, dtype):
                key = error.layer, error.direction, error.pair
                if key not in worst or not error.error / error.budget <= worst[key].error / worst[key].budget:
                    worst[key] = error
    return list(worst.values())
