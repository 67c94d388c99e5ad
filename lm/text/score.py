"""Score a text: the probability that a model gives each of its tokens."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm.backend import Logits
from lm.config import TrainConfig
from lm.data.batch import check_token_ids
from lm.text.ends import Ends, choose_ends
from lm.text.generate import log_probability
from tokenizer import Tokenizer
from tokenizer.errors import InputError


@dataclass(frozen=True)
class TextScore:
    """The tokens of a text, and how surprising each one is to the model."""

    token_ids: list[int]
    tokens: list[bytes]
    """The bytes of each token; an empty list if the text was token ids."""
    nats: list[float | None]
    """-log p of each token, given those before it. None for a first token if nothing precedes it."""
    stride: int
    """Distance between the starts of the windows in which a text longer than the context is read."""

    @property
    def total_nats(self) -> float:
        """-log p of the text."""
        return math.fsum(self._predicted())

    @property
    def num_predicted(self) -> int:
        """Number of tokens that have nats."""
        return len(self._predicted())

    @property
    def num_bytes(self) -> int | None:
        """Number of bytes of the tokens that have nats; None if the bytes are not known."""
        if not self.tokens:
            return None
        return sum(len(token) for token, nats in zip(self.tokens, self.nats, strict=True) if nats is not None)

    @property
    def perplexity(self) -> float:
        """exp(nats per token); infinite if that overflows."""
        loss = self.total_nats / self.num_predicted
        return math.inf if loss >= 709 else math.exp(loss)

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte of text, which compare models across tokenizers; None if the bytes are not known."""
        return self.total_nats / self.num_bytes / math.log(2) if self.num_bytes else None

    def _predicted(self) -> list[float]:
        return [nats for nats in self.nats if nats is not None]


def score_text(
    logits: Logits,
    state: Any,
    config: TrainConfig,
    tokenizer: Tokenizer | None,
    text: str | Sequence[int],
    stride: int | None = None,
    ends: Ends | None = None,
) -> TextScore:
    """Score a text as if it began a document: after the token that begins or ends a text, if the model has one.

    A text longer than the context is read in windows of context_length tokens. Their starts are `stride` tokens apart,
    and each window scores only the tokens that no earlier window scored. So every token sees all tokens before it,
    or at least context_length - stride of them.

    Args:
        tokenizer: The model's tokenizer, or None if the text is token ids.
        text: A text, or token ids.
        stride: From 1 (each token sees as much as possible; slow) to context_length (windows do not overlap). None:
            half of context_length.
        ends: The model's own ends; the tokenizer's if None.

    Raises:
        InputError: no token of the text has a token before it, an id or the stride is out of range, the model is not a
            decoder, or its logits are not finite.
    """
    if config.model.architecture != "decoder":
        raise InputError(
            f"the model's architecture is {config.model.architecture}, and only a decoder gives a text a probability; "
            "score with the run of a decoder"
        )
    context_length = config.model.context_length
    stride = max(1, context_length // 2) if stride is None else stride
    if not 1 <= stride <= context_length:
        raise InputError(f"stride is {stride}: give 1 to the model's context_length {context_length}")
    if isinstance(text, str):
        assert tokenizer is not None
        token_ids = tokenizer.encode(text)
    else:
        token_ids, tokenizer = list(text), None
        check_token_ids(np.array(token_ids, np.int64), config.model.vocab_size)
    first = choose_ends(tokenizer, ends).start
    start = [] if first is None else [first]
    sequence = np.array(start + token_ids, np.int32)
    if len(sequence) < 2:
        raise InputError(
            f"the text has {len(token_ids)} tokens, none of them with one before it; give a longer text"
        )
    nats: list[float | None] = [] if start else [None]
    for window in _windows(len(sequence) - 1, context_length, stride):
        logits_TV = logits(state, sequence[None, window])[0]
        targets = sequence[window.start + 1 : window.stop + 1]
        new = len(nats) - (0 if start else 1) - window.start
        nats_T = [
            0.0 - log_probability(logits_V, target)  # a minus sign would make -0.0 of a certain token
            for logits_V, target in zip(logits_TV[new:], targets[new:].tolist(), strict=True)
        ]
        if not np.isfinite(nats_T).all():
            raise InputError(
                "the model's logits are not finite, so the text has no probability; take an earlier checkpoint"
            )
        nats += nats_T
    tokens = [tokenizer.vocab[i] for i in token_ids] if tokenizer else []
    return TextScore(token_ids, tokens, nats, stride)


def _windows(num_inputs: int, length: int, stride: int) -> Iterator[slice]:
    """Yield windows over the inputs, all of one length. The last window ends at the last input.

    >>> list(_windows(11, 6, 4))
    [slice(0, 6, None), slice(4, 10, None), slice(5, 11, None)]
    """
    last = max(0, num_inputs - length)
    for start in range(0, last + stride, stride):
        begin = min(start, last)
        yield slice(begin, min(begin + length, num_inputs))
