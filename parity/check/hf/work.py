"""Choose what is computed: texts that are as long as the model's size allows."""

from dataclasses import dataclass

import numpy as np

from lm.config import ModelConfig
from lm.flops import parameters
from parity.check.hf.answer import Questions
from tokenizer import Tokenizer

TEXTS, TOKENS = 2, 32
"""Texts whose logits and hidden states are compared, and their tokens."""
NEW_TOKENS = 20
"""Tokens by which each prompt is continued."""
REACH = 2e11
"""Most parameters times tokens for a text that is longer than the sliding window: about a minute on two cores."""
TEXT = (
    "In the winter of 1911 the lighthouse keeper's daughter, Ana, counted 27 ships from her window. \"None of them "
    'stops here," she said, and wrote each name into a blue notebook: Étoile, Södra, 北星, Aurora. At night the wind '
    "came from the north-west; the lamp turned, and its light went over the water, over the rocks, and over the roof "
    "of the house in which her father slept. def area(r): return 3.14159 * r ** 2  # she would have laughed at that."
)


@dataclass(frozen=True)
class Work:
    """The questions, and how they were chosen."""

    questions: Questions
    sources: tuple[str, ...]
    """What each text is made of."""
    window: int | None
    """The sliding window, if texts within the context can be longer."""
    reaches: bool
    """Whether some texts are longer than the sliding window."""

    def lines(self) -> list[str]:
        """Say what is computed."""
        q = self.questions
        sources = " and ".join(dict.fromkeys(self.sources))
        lengths = " and ".join(f"{len(prompt):,}" for prompt in q.prompts)
        out = [
            f"{len(q.ids)} texts of {q.ids.shape[1]:,} tokens ({sources}); prompts of {lengths} tokens, "
            f"each continued by {q.new_tokens}"
        ]
        if self.window and not self.reaches:
            out.append(
                f"the sliding window of {self.window:,} tokens is not reached: texts that long would take minutes"
            )
        return out


def choose_work(config: ModelConfig, tokenizer: Tokenizer | None) -> Work:
    """Choose texts and prompts for a model.

    The texts are longer than the sliding window if parameters times tokens are at most `REACH`.
    """
    context = config.context_length
    window = config.sliding_window if config.sliding_window and config.sliding_window < context else None
    reaches = window is not None and sum(parameters(config).values()) * (window + NEW_TOKENS) <= REACH
    reached = window if window and reaches else 0
    tokens = min(context, max(TOKENS, reached + 8))
    new_tokens = min(NEW_TOKENS, max(1, context // 2))
    longest = max(1, min(context - new_tokens, max(20, reached + 6)))
    # A window begins to slide while the short prompt is continued, and has slid in the long one.
    lengths = sorted({min(max(3, reached - 8), longest), longest})

    random = np.random.default_rng(0).integers(0, config.vocab_size, (TEXTS, tokens))
    sources = ["random ids"] * TEXTS
    if tokenizer is not None and (ids := tokenizer.encode(TEXT)):
        random[0], sources[0] = np.resize(ids, tokens), "a short story"
    story = np.resize(random[0], longest + len(lengths))
    prompts = tuple(tuple(story[i : i + n].tolist()) for i, n in enumerate(lengths))
    return Work(Questions(random, prompts, new_tokens), tuple(sources), window, reaches)
