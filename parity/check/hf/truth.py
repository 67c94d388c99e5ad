"""The truth: the float64 oracle with the folder's weights, read a layer at a time."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lm.config import ModelConfig
from parity import oracle
from parity.check.hf.answer import KEPT, Numbers
from parity.check.models import hidden_states


def embedding(weight: np.ndarray, token_ids: np.ndarray) -> np.ndarray:
    """Return the oracle's `embedding`, by looking rows up: its product takes minutes with a large vocabulary."""
    return weight[token_ids]


class AsFloat64(Mapping[str, np.ndarray]):
    """Weights in float64. Each is converted when it is asked for."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self._weights = weights

    def __getitem__(self, name: str) -> np.ndarray:
        return self._weights[name].astype(np.float64)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def compute_truth(config: ModelConfig, weights: Mapping[str, np.ndarray], ids: np.ndarray) -> Numbers:
    """Return the oracle's logits and hidden states. `weights` may read each array when it is asked for."""
    head: Any = oracle.function("logits")
    with (
        oracle.replaced("embedding", embedding),
        oracle.replaced("logits", lambda w, x, *args: head(w, x[:, -KEPT:], *args)),
    ):
        logits, *states = hidden_states(AsFloat64(weights), ids, config)
    # Before the last one is the last layer's output without the final norm.
    return Numbers("float64 oracle", "float64", logits, [*states[:-2], states[-1]])
