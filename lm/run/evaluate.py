"""Loss and accuracy on a whole file."""

import math
from dataclasses import dataclass, replace
from typing import Any

from lm.accounting.limits import explained, refuse_more_than_memory
from lm.backend import EvalStep
from lm.config import TrainConfig
from lm.data.pairs import PairFile
from lm.data.sources import count_windows, evaluation_batches
from lm.data.token_files import Tokens
from lm.mesh import Mesh

_LARGEST_ARRAY = 1 << 26
"""Bytes. The loss holds a few arrays as large as the logits at once."""


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a file."""

    loss: float
    """Mean cross-entropy in nats per predicted token."""
    num_targets: int
    """Number of predicted tokens. Of a text: all except the first. For an encoder: the masked tokens. Of pairs: the
    targets, with their end tokens."""
    accuracy: float
    """Share of the predicted tokens that the model found the likeliest."""

    @property
    def perplexity(self) -> float:
        """exp(loss), or infinity if that overflows."""
        return math.inf if self.loss >= 709 else math.exp(self.loss)


def evaluate(
    eval_step: EvalStep,
    state: Any,
    data: Tokens | PairFile,
    config: TrainConfig,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> Evaluation:
    """Return the mean loss over a whole file, of tokens or of pairs.

    A text is read in windows that do not overlap. They have context_length tokens, except the last, or they hold whole
    documents (`eval_by`). Each token except the first is predicted once. So the loss depends neither on seeds nor on
    the batch size, and losses of runs with equal context_length can be compared.

    Args:
        batch_size: Largest number of windows to compute at once. If not given: the config's, or fewer if they would not
            fit in memory.
        mesh: The devices that share each batch.

    Raises:
        InputError: batch_size is below 1.
    """
    given = config.batch_size if batch_size is None else batch_size
    config = replace(config, batch_size=given, grad_accumulation=1)
    rows = _batch_rows(config, count_windows(data, config), mesh or Mesh(), limited=batch_size is None)
    total, num_targets, correct = 0.0, 0, 0
    with explained(lambda: f"{rows:,} windows were computed at once; lower --batch-size"):
        for batch in evaluation_batches(data, replace(config, batch_size=rows)):
            batch_total, batch_targets, batch_correct = eval_step(state, batch)
            total += batch_total
            num_targets += batch_targets
            correct += batch_correct
    return Evaluation(total / num_targets, num_targets, correct / num_targets)


def _batch_rows(config: TrainConfig, windows: int, mesh: Mesh, limited: bool) -> int:
    """Return the rows of a batch: at most batch_size, spread evenly, so that few rows of the last batch are empty."""
    m, shares = config.model, mesh.data * mesh.fsdp
    length = m.context_length + (m.prefix_length or 0)
    # The largest array is that of the logits or of attention's scores.
    largest = length * max(m.vocab_size, m.num_heads * length) * (8 if config.param_dtype == "float64" else 4)
    most = config.batch_size // shares
    if limited:
        most = min(most, _LARGEST_ARRAY // largest)
    most = max(1, most) * shares
    batches = math.ceil(windows / most)
    rows = math.ceil(windows / batches / shares) * shares
    if config.device == "cpu":
        refuse_more_than_memory(
            rows * largest, f"the logits of {rows:,} windows at once take", "--batch-size"
        )
    return rows


def entropy_floor(facts: dict[str, Any]) -> float | None:
    """Return the nats per token that no model can beat on average, or None if they are not known.

    They are known for texts of lm stories, whose grammar gives every text its probability.

    Args:
        facts: Facts of the evaluated text (`lm.data.sources.text_facts`).
    """
    return facts["nats"] / facts["tokens"] if "nats" in facts else None


def bits_per_byte(evaluation: Evaluation, facts: dict[str, Any]) -> float | None:
    """Return the loss in bits per byte of text, or None if the text's size in bytes is not known.

    Bits per byte compare models with different tokenizers.

    Args:
        facts: Facts of the evaluated text (`lm.data.sources.text_facts`).
    """
    if "bytes" not in facts:
        return None
    return evaluation.loss * facts["tokens"] / facts["bytes"] / math.log(2)
