"""The backends' layers as functions of named arrays."""

import importlib
from typing import Any, Protocol

import numpy as np

from lm.backend import BackendName, load
from lm.budgets import Dtype
from lm.config import TrainConfig
from parity.case import Arrays, Given


class Evaluate(Protocol):
    def __call__(
        self, layer: str, given: Given, cotangent: np.ndarray | None, dtype: Dtype, mode: str, /
    ) -> tuple[Any, Arrays]:
        """Return the layer's output, and the gradients of sum(cotangent * output) with respect to every array.

        Without a cotangent there are no gradients.
        """


def evaluator(name: BackendName, config: TrainConfig) -> Evaluate:
    """Set up a backend for this config, and return `evaluate` of `parity.in_torch` or `parity.in_jax`."""
    load(name, config)
    evaluate: Evaluate = importlib.import_module(f"parity.in_{name}").evaluate
    return evaluate
