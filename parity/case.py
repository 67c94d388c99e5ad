"""A random case of a layer: a few numbers from which all its arguments are computed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lm.budgets import BUDGETS, SPREAD, Dtype

Arrays = dict[str, np.ndarray]
Shape = tuple[int, ...]
Rng = np.random.Generator

SCALES = (0.1, 1.0, 3.0)
MASKS = ("causal", "full", "random", "empty row")
POSITIONS = ("from 0", "from 1000", "random")


class Given(NamedTuple):
    """Arguments of a layer."""

    arrays: Arrays
    """Arrays with gradients. The names of weights end in "weight", those of biases in "bias"."""
    constants: Arrays = {}  # noqa: RUF012 (never written to)
    """Masks, ids, positions."""
    statics: dict[str, Any] = {}  # noqa: RUF012
    """Axes, sizes and hyperparameters: each value has a program of its own."""


@dataclass(frozen=True)
class Case:
    """The few numbers from which a problem is computed."""

    layer: str
    shape: Shape
    seed: int
    scale: float = 1.0
    mask: str = "causal"
    positions: str = "from 0"
    spread: float = SPREAD
    """Widest spread of scores and logits: wider ones are scaled to it. If it exceeds SPREAD, all are scaled to it."""

    @property
    def label(self) -> str:
        """The case without its layer, in short, for the table."""
        shape = "x".join(map(str, self.shape))
        return f"{shape}, seed {self.seed}, scale {self.scale:g}, {self.mask}, {self.positions}"

    def spread_out(self, logits: np.ndarray) -> float:
        """Return the factor that gives the logits this case's spread."""
        widest = float(np.ptp(logits, axis=-1).max())
        return self.spread / widest if widest > self.spread or self.spread > SPREAD else 1.0


class Layer(NamedTuple):
    """One line of the table `parity.layers.LAYERS`."""

    shapes: tuple[Shape, ...]
    """Shapes of cases: few, so that few programs are compiled, with sizes that differ, so that no axes are confused."""
    draw: Callable[[Rng, Case], Given]
    oracle: Callable[[Given], np.ndarray]
    differentiable: bool = True
    element_wise: bool = False
    whole_model: bool = False
    of_variants: bool = False
    """Whether each case is a model of its own, which takes seconds to compile."""
    dtypes: tuple[Dtype, ...] = tuple(BUDGETS)


def array_dtype(name: str, dtype: Dtype) -> Dtype:
    """Return an array's type. Weights, biases and the optimizer's gradients stay float32 if `dtype` is bfloat16."""
    return "float32" if dtype == "bfloat16" and name.endswith(("weight", "bias", "gradient")) else dtype
