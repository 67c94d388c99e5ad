"""What an implementation answers: logits, hidden states and greedy texts."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from lm.budgets import Dtype

KEPT = 64
"""Last places of each text whose logits are compared. More would only take memory."""


@dataclass(frozen=True)
class Questions:
    """What every implementation is asked."""

    ids: Int[np.ndarray, "B T"]
    """Texts whose logits and hidden states are compared."""
    prompts: tuple[tuple[int, ...], ...]
    """Prompts that are continued. Their lengths differ."""
    new_tokens: int
    """Number of tokens that each prompt is continued by."""


@dataclass(frozen=True)
class Numbers:
    """The logits and hidden states of one implementation in one type."""

    name: str
    dtype: Dtype
    logits: Float[np.ndarray, "B K V"]
    """Those of the last `KEPT` places."""
    states: list[Float[np.ndarray, "B T D"]]
    """The embeddings, the output of each layer except the last, and the last layer's output after the final norm."""


@dataclass(frozen=True)
class Texts:
    """The tokens by which one implementation continues each prompt."""

    name: str
    continuations: list[list[int]]
    logits: list[Float[np.ndarray, "N V"]] = field(default_factory=list)
    """Of transformers alone: the logits that each token was chosen by."""
