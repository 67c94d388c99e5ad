"""Complete texts: generate tokens, and give out their text as soon as it is certain."""

import codecs
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from lm.accounting.limits import explained
from lm.backend import Backend, DecodeStep, Prefill
from lm.config import TrainConfig
from lm.data.batch import check_token_ids
from lm.text.ends import Ends, choose_ends
from lm.text.generate import (
    Drawn,
    Ending,
    check_prefixes,
    drawable_tokens,
    generate,
    generate_after_prefixes,
    read_prompts,
)
from lm.text.sampling import SamplingConfig
from tokenizer import InputError, Tokenizer


class Completion:
    """The text that continues one prompt. It grows by whole characters, and never into a stop text.

    Without a tokenizer, a prompt is token ids, and the text stays empty: `drawn` has the tokens.
    """

    def __init__(
        self, prompt: str | Sequence[int], tokenizer: Tokenizer | None, stop: tuple[str, ...] = ()
    ) -> None:
        if tokenizer is None and (stop or isinstance(prompt, str)):
            raise InputError(
                "without a tokenizer, a prompt is token ids, and no text can stop it; give no stop text"
            )
        self.prompt = prompt
        self.text = ""
        self.drawn: list[Drawn] = []
        self.ending: Ending | None = None
        self._tokenizer = tokenizer
        self._stop = stop
        # A character may be spread over several tokens.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""

    def add(self, drawn: Drawn) -> str:
        """Take one more token, and return the text that is certain now. At a stop text, the ending becomes "stop"."""
        self.drawn.append(drawn)
        if self._tokenizer is None:
            return ""
        self._pending += self._decoder.decode(self._tokenizer.decode_bytes([drawn.token]))
        found = [start for text in self._stop if (start := self._pending.find(text)) >= 0]
        if found:
            self.ending = "stop"
            return self._give(min(found), drop_rest=True)
        # The end of the text may be the beginning of a stop text. Then it waits for the next token.
        waiting = max(
            (n for text in self._stop for n in range(1, len(text)) if self._pending.endswith(text[:n])),
            default=0,
        )
        return self._give(len(self._pending) - waiting)

    def finish(self, ending: Ending = "interrupted") -> str:
        """End the text, if it has not ended, and return the pending text. Half a character becomes U+FFFD."""
        if self.ending is not None:
            return ""
        self.ending = ending
        self._pending += self._decoder.decode(b"", final=True)
        return self._give(len(self._pending))

    def _give(self, n: int, drop_rest: bool = False) -> str:
        text, self._pending = self._pending[:n], "" if drop_rest else self._pending[n:]
        self.text += text
        return text


def complete(
    steps: tuple[Prefill, DecodeStep],
    state: Any,
    config: TrainConfig,
    tokenizer: Tokenizer | None,
    completions: Sequence[Completion],
    sampling: SamplingConfig,
    stop_token: str | None = None,
    log_probabilities: bool = False,
    ends: Ends | None = None,
) -> Iterator[tuple[Completion, str]]:
    """Generate until all completions have ended, and yield (completion, its new text) for each token.

    Args:
        tokenizer: The model's tokenizer, or None if all prompts are token ids.
        completions: `sampling.samples` in a row for each prompt. An empty prompt begins a new text. Token ids are read
            unchanged. The prompt of an encoder-decoder is the prefix, which must not be empty.
        stop_token: Special token that ends a text; no token if empty; the model's own ends if None.
        ends: The model's own ends; the tokenizer's if None.

    Raises:
        InputError: a prompt is longer than the context; a prompt is empty, and no token begins or ends the model's
            texts; a prefix is empty or longer than prefix_length; an id is out of range; or the stop token is unknown.
    """
    ends = choose_ends(tokenizer, ends)
    stop_tokens = ends.stop_ids(stop_token, tokenizer)
    drawable = drawable_tokens(tokenizer, stop_tokens, config.model.vocab_size) if tokenizer else None
    endings: dict[int, Ending] = {}
    is_pair = config.model.architecture == "encoder_decoder"
    token_ids = [
        _read_prompt(c.prompt, config, tokenizer, None if is_pair else ends)
        for c in completions[:: sampling.samples]
    ]
    if is_pair:
        (start,) = ends.begin([])
        tokens = generate_after_prefixes(
            *steps,
            state,
            config,
            token_ids,
            sampling,
            start,
            stop_tokens,
            endings,
            log_probabilities,
            drawable,
        )
    else:
        tokens = generate(
            *steps, state, config, token_ids, sampling, stop_tokens, endings, log_probabilities, (), drawable
        )
    with explained(lambda: f"{len(completions):,} texts grew at once; give fewer prompts or samples"):
        for drawn in tokens:
            completion = completions[drawn.row]
            yield completion, completion.add(drawn)
            if completion.ending == "stop":
                endings[drawn.row] = "stop"
    for row, completion in enumerate(completions):
        yield completion, completion.finish(endings[row])


def _read_prompt(
    prompt: str | Sequence[int], config: TrainConfig, tokenizer: Tokenizer | None, ends: Ends | None
) -> list[int]:
    """Return the ids that a model reads of a prompt. `ends` is None if a prompt has no beginning."""
    if isinstance(prompt, str):
        assert tokenizer is not None  # a Completion has seen to it
        token_ids = tokenizer.encode(prompt)
    else:
        token_ids, tokenizer = list(prompt), None
        check_token_ids(np.array(token_ids, np.int64), config.model.vocab_size)
    return ends.begin(token_ids, tokenizer) if ends else token_ids


def opening(completion: Completion, config: TrainConfig) -> str:
    """Return how a shown text begins: with its prompt, except for an encoder-decoder, whose prompt is another text."""
    is_shown = isinstance(completion.prompt, str) and config.model.architecture != "encoder_decoder"
    return str(completion.prompt) if is_shown else ""


def make_sampler(
    backend: Backend, config: TrainConfig, tokenizer: Tokenizer | None, ends: Ends | None = None
) -> Callable[[Any], str]:
    """Return a function of a state that returns a sample of its text, always with the same draws.

    Without a tokenizer there is no text, and the sample is empty.

    Args:
        ends: The model's own ends; the tokenizer's if None.

    Raises:
        InputError: the prompt is longer than the context; or it is empty, and no token begins or ends a text.
    """
    if tokenizer is None:
        return lambda state: ""
    steps = backend.make_prefill(config), backend.make_decode_step(config)
    prompt = tokenizer.encode(config.sample_prompt)
    if config.model.architecture == "encoder_decoder":
        check_prefixes([prompt], config)
    else:
        read_prompts([choose_ends(tokenizer, ends).begin(prompt, tokenizer)], config)
    sampling = SamplingConfig(max_new_tokens=64, temperature=0.8, seed=config.seed)

    def sample(state: Any) -> str:
        completion = Completion(config.sample_prompt, tokenizer)
        for _ in complete(steps, state, config, tokenizer, [completion], sampling, ends=ends):
            pass
        return opening(completion, config) + completion.text

    return sample
