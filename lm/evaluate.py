"""Loss and accuracy on a whole file."""

import math
from dataclasses import dataclass
from typing import Any

from lm.backend import EvalStep
from lm.config import TrainConfig
from lm.data import Tokens
from lm.pairs import PairFile
from lm.sources import evaluation_batches


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a file."""

    loss: float
    """Mean cross-entropy in nats per predicted token."""
    num_targets: int
    """Predicted tokens: all but the first; an encoder's masked ones; the targets of pairs, with their end tokens."""
    accuracy: float
    """Share of them that were the likeliest token."""

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 709 else math.inf


def evaluate(eval_step: EvalStep, state: Any, data: Tokens | PairFile, config: TrainConfig) -> Evaluation:
    """Mean loss over all tokens, in windows of context_length that do not overlap, the last one shorter; or over pairs.

    Each token but the first is predicted once, so the loss does not depend on seeds or batch size, and runs of
    the same context_length compare.
    """
    total, num_targets, correct = 0.0, 0, 0
    for batch in evaluation_batches(data, config):
        batch_total, batch_targets, batch_correct = eval_step(state, batch)
        total += batch_total
        num_targets += batch_targets
        correct += batch_correct
    return Evaluation(total / num_targets, num_targets, correct / num_targets)


def entropy_floor(facts: dict[str, Any]) -> float | None:
    """Nats per token that no model can beat in expectation, where the text's information is known (lm stories)."""
    return facts["nats"] / facts["tokens"] if facts.get("nats") is not None else None


def bits_per_byte(evaluation: Evaluation, facts: dict[str, Any]) -> float | None:
    """Bits per byte of text, which compares models across tokenizers, where the text's size is known."""
    if "bytes" not in facts:
        return None
    return evaluation.loss * facts["tokens"] / facts["bytes"] / math.log(2)
