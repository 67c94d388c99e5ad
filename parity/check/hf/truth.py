"""The truth: the float64 oracle with the folder's weights, read a layer at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from lm.config import ModelConfig
from parity import oracle
from parity.check.hf.answer import KEPT, Numbers
from parity.check.models import hidden_states


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | float = 0.0) -> np.ndarray:
    """Return the oracle's `linear`, as one product for all tokens."""
    return np.asarray(x @ weight.T + bias)


def embedding(weight: np.ndarray, token_ids: np.ndarray) -> np.ndarray:
    """Return the oracle's `embedding`, by looking rows up."""
    return weight[token_ids]


def rope(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """Return the oracle's `rope`, pair by pair at once."""
    return stretched_rope(x, positions, theta, [1.0] * (x.shape[-1] // 2))


def stretched_rope(
    x: np.ndarray, positions: np.ndarray, theta: float, stretch: Sequence[float]
) -> np.ndarray:
    """Return the oracle's `stretched_rope`, all pairs at once."""
    K = x.shape[-1]
    angle = positions[..., None] / np.asarray(stretch) / theta ** (2 * np.arange(K // 2) / K)
    # A pair is a complex number, and rotating is a product.
    turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)
    return np.stack((turned.real, turned.imag), -1).reshape(x.shape)


# The oracle's own forms take minutes with large matrices: they read each weight once for each token.
FASTER: dict[str, Callable[..., np.ndarray]] = {
    "linear": linear,
    "embedding": embedding,
    "rope": rope,
    "stretched_rope": stretched_rope,
}


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
    with ExitStack() as stack:
        for name, variant in FASTER.items():
            stack.enter_context(oracle.replaced(name, variant))
        stack.enter_context(oracle.replaced("logits", lambda w, x, *args: head(w, x[:, -KEPT:], *args)))
        logits, *states = hidden_states(AsFloat64(weights), ids, config)
    # Before the last one is the last layer's output without the final norm.
    return Numbers("float64 oracle", "float64", logits, [*states[:-2], states[-1]])
