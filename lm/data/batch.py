"""What a step takes: a batch, its checks, and a thread that makes batches ahead."""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Integer

from tokenizer.errors import InputError


@dataclass(frozen=True)
class Batch:
    """Windows of tokens and the targets at each position. The leading axis counts micro-batches."""

    inputs: Int[np.ndarray, "A B T"]
    targets: Int[np.ndarray, "A B T"]
    """For a decoder, the next token. For an encoder, the token that stood there before masking."""
    loss_mask: Bool[np.ndarray, "A B T"] | None = None
    """True if a position counts towards the loss. None: all count."""
    num_tokens: Int[np.ndarray, "A B"] | None = None
    """Length without padding of the sequence with bidirectional attention: an encoder's inputs, or the prefix."""
    prefix: Int[np.ndarray, "A B P"] | None = None
    """What the encoder of an encoder-decoder reads."""
    starts: Int[np.ndarray, "A B T"] | None = None
    """For each token of packed documents, the index in its window at which its document starts."""

    @property
    def model_inputs(self) -> dict[str, np.ndarray]:
        """The arguments of the model by name: those that the batch has."""
        arguments = {
            "token_ids_BT": self.inputs,
            "num_tokens_B": self.num_tokens,
            "prefix_BP": self.prefix,
            "starts_BT": self.starts,
        }
        return {name: array for name, array in arguments.items() if array is not None}

    @property
    def num_targets(self) -> int:
        """Number of positions that count."""
        return self.targets.size if self.loss_mask is None else int(self.loss_mask.sum())


def check_token_ids(token_ids: Integer[np.ndarray, "..."], vocab_size: int, where: str = "") -> None:
    """Refuse ids outside 0 .. vocab_size - 1. torch would index from the end with them, and XLA would clamp them."""
    if not token_ids.size:
        return
    low, high = int(token_ids.min()), int(token_ids.max())
    if low < 0 or high >= vocab_size:
        raise InputError(
            f"{where}token id {low if low < 0 else high} is outside 0 .. {vocab_size - 1}; "
            "encode with the model's own tokenizer, or set model.vocab_size to fit"
        )


def check_batch(batch: Batch, vocab_size: int) -> None:
    """Refuse ids out of range in a batch."""
    for token_ids in (batch.inputs, batch.targets, batch.prefix):
        if token_ids is not None:
            check_token_ids(token_ids, vocab_size)


def prefetch(
    make: Callable[[int], Batch], first: int, stop: int, ahead: int = 3
) -> Generator[Batch, None, None]:
    """Yield `make(step)` for first <= step < stop. A thread makes the batches up to `ahead` steps early.

    An error that `make` raises is raised here at its own step.
    """
    with ThreadPoolExecutor(1, "batches") as pool:
        made = deque(pool.submit(make, step) for step in range(first, min(first + ahead, stop)))
        for step in range(first, stop):
            batch = made.popleft().result()
            if step + ahead < stop:
                made.append(pool.submit(make, step + ahead))
            yield batch
