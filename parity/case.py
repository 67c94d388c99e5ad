"""A random case of a layer: a few numbers, that its arguments are a pure function of."""

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
    """What gradients are taken of. Weights and biases are those whose name ends so."""
    constants: Arrays = {}  # noqa: RUF012 (never written to)
    """Masks, ids, positions."""
    statics: dict[str, Any] = {}  # noqa: RUF012
    """What changes the program: axes, sizes, hyperparameters."""


@dataclass(frozen=True)
class Case:
    """The few numbers that a problem is a function of."""

    layer: str
    shape: Shape
    seed: int
    scale: float = 1.0
    mask: str = "causal"
    positions: str = "from 0"
    spread: float = SPREAD
    """Scores and logits that are drawn further apart are scaled to this; more than SPREAD: to exactly this."""

    @property
    def label(self) -> str:
        """The case in short, without its layer; for a reader of the table."""
        shape = "x".join(map(str, self.shape))
        return f"{shape}, seed {self.seed}, scale {self.scale:g}, {self.mask}, {self.positions}"

    def spread_out(self, logits: np.ndarray) -> float:
        """The factor that makes the logits spread as this case asks for."""
        widest = float(np.ptp(logits, axis=-1).max())
        return self.spread / widest if widest > self.spread or self.spread > SPREAD else 1.0


class Layer(NamedTuple):
    """One line of the table `parity.layers.LAYERS`."""

    shapes: tuple[Shape, ...]
    """The few shapes that cases have, so that compilers see few. Sizes differ, lest an axis be taken for another."""
    draw: Callable[[Rng, Case], Given]
    oracle: Callable[[Given], np.ndarray]
    differentiable: bool = True
    element_wise: bool = False
    whole_model: bool = False
    of_variants: bool = False
    """Each case is a model of its own, which takes seconds to compile."""
    dtypes: tuple[Dtype, ...] = tuple(BUDGETS)


def array_dtype(name: str, dtype: Dtype) -> Dtype:
    """Weights, biases and what the optimizer is given stay float32 where activations are bfloat16."""
    return "float32" if dtype == "bfloat16" and name.endswith(("weight", "bias", "gradient")) else dtype
