"""Text from a model, one token at a time; which token is NumPy's business, so both backends write the same."""

import codecs
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from lm.backend import Backend, DecodeStep, Prefill
from lm.budgets import BUDGETS
from lm.config import TrainConfig
from lm.limits import explained
from lm.text.ends import Ends, ends_of
from lm.text.sampling import Choice, Noise, SamplingConfig, choose_token
from tokenizer import Tokenizer
from tokenizer.errors import InputError

Ending = Literal["stop", "length", "context", "interrupted"]
"""Why a text ended: at a stop token or text, at max_new_tokens, where learned positions end, or by Ctrl-C."""


class Drawn(NamedTuple):
    """A token drawn for one row of the batch."""

    row: int
    token: int
    log_probability: float | None
    """The model's own, in nats, before temperature and the other rules; where asked for."""
    tie: Choice | None
    """The choice, where its runner-up lies so close that rounding may have decided."""


def generate(
    prefill: Prefill,
    decode_step: DecodeStep,
    state: Any,
    config: TrainConfig,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    stop_tokens: Collection[int] = (),
    endings: dict[int, Ending] | None = None,
    log_probabilities: bool = False,
    prefix: tuple[np.ndarray, np.ndarray] | tuple[()] = (),
    drawable: Bool[np.ndarray, " V"] | None = None,
) -> Iterator[Drawn]:
    """Continue the prompts, `sampling.samples` rows each, up to and without a stop token; step by step, row by row.

    A row's draws depend on the seed, the sample's number within its prompt and the token's position, and not on the
    other rows. Beyond the context the cache slides: each token sees the context_length tokens before it, at
    their positions; learned positions end there.

    Args:
        endings: Filled with the reason why each row has ended. The caller may end a row by an entry of its own.
        prefix: What an encoder reads for each row, padded, and the tokens of each; see `prefix_generation`.
        drawable: Which tokens may be drawn (`drawable_tokens`); all, if not given.

    Raises:
        InputError: a prompt is empty or longer than the context, or a logit is not finite.
    """
    check_prompts(prompts, config)
    endings = {} if endings is None else endings
    rows = [(list(prompt), sample) for prompt in prompts for sample in range(sampling.samples)]
    if not rows:
        return
    context_length = config.model.context_length
    lengths = np.array([len(prompt) for prompt, _ in rows])
    # Sizes are few, so that texts of many lengths share compiled passes; of the cache, each step reads all slots.
    longest = int(lengths.max())
    T = min(context_length, _rounded_up(longest, sizes=1))
    slots = min(context_length, max(T, _rounded_up(longest + sampling.max_new_tokens, sizes=4)))
    token_ids = np.zeros((len(rows), T), np.int32)
    for row, (text, _) in enumerate(rows):
        token_ids[row, : len(text)] = text
    logits, cache = prefill(state, token_ids, lengths, slots, *prefix)
    # Learned positions end with the context: the last of them still tells the token after it.
    last_position = context_length - 1 if config.model.position == "learned" else np.inf
    tokens = np.zeros(len(rows), np.int32)
    # Rows at the same position have their noise in common.
    choose = functools.partial(
        choose_token,
        sampling=sampling,
        noise_of=functools.lru_cache(len(rows))(Noise),
        drawable=drawable,
    )
    # Either of two logits may be off by what parity allows.
    rounding = 2 * BUDGETS[config.compute_dtype].model_forward
    for step in range(sampling.max_new_tokens):
        largest = np.maximum(logits.max(-1), -logits.min(-1))
        if not np.isfinite(largest).all():
            raise InputError(
                "the model's logits are not finite, so no token can be drawn; take an earlier checkpoint"
            )
        for row, (text, sample) in enumerate(rows):
            if row in endings:
                continue
            if len(text) - 1 > last_position:
                endings[row] = "context"
                continue
            choice = choose(logits[row], text, sample=sample)
            drawn = Drawn(
                row,
                choice.token,
                _log_probability(logits[row], choice.token) if log_probabilities else None,
                choice if choice.gap <= rounding * largest[row] else None,
            )
            if drawn.token in stop_tokens:
                endings[row] = "stop"
                continue
            text.append(drawn.token)
            tokens[row] = drawn.token
            yield drawn
        if len(endings) == len(rows):
            return
        if step + 1 < sampling.max_new_tokens:
            # A row that has ended reads its last token again, since shapes are fixed; nobody looks.
            positions = np.array([min(len(text) - 1, last_position) for text, _ in rows], np.int64)
            logits, cache = decode_step(state, cache, tokens, positions)
    endings |= {row: "length" for row in range(len(rows)) if row not in endings}


def _rounded_up(n: int, sizes: int) -> int:
    """The next of so many sizes between one power of two and the next; 16 at least."""
    part = max(16, 1 << (n - 1).bit_length()) // (2 * sizes)
    return max(16, -(-n // part) * part)


def prefix_generation(
    prefill: Prefill,
    decode_step: DecodeStep,
    state: Any,
    config: TrainConfig,
    prefixes: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    start_token: int,
    stop_tokens: Collection[int],
    endings: dict[int, Ending] | None = None,
    log_probabilities: bool = False,
    drawable: Bool[np.ndarray, " V"] | None = None,
) -> Iterator[Drawn]:
    """What follows from each prefix, `sampling.samples` rows each: `lm.text.generate.generate` from the start token on.

    Prefixes of different lengths share a batch, and none changes what another gives.

    Raises:
        InputError: a prefix is empty or longer than the model's.
    """
    check_prefixes(prefixes, config)
    rows = [prefix for prefix in prefixes for _ in range(sampling.samples)]
    prefix_BP = np.zeros((len(rows), config.model.prefix_length or 0), np.int32)
    for row, prefix in enumerate(rows):
        prefix_BP[row, : len(prefix)] = prefix
    starts = [[start_token]] * len(prefixes)
    read = prefix_BP, np.array([len(prefix) for prefix in rows])
    return generate(
        prefill,
        decode_step,
        state,
        config,
        starts,
        sampling,
        stop_tokens,
        endings,
        log_probabilities,
        read,
        drawable,
    )


def drawable_tokens(
    tokenizer: Tokenizer, stop_tokens: Collection[int], vocab_size: int
) -> Bool[np.ndarray, " V"] | None:
    """Which of a model's tokens may be drawn: those with text, and those that end one; None if all may.

    A model's vocabulary may be padded beyond its tokenizer's, and a tokenizer's ids may have holes.

    Raises:
        InputError: there are none.
    """
    drawable = np.zeros(vocab_size, bool)
    ids = np.array([*tokenizer.ids_with_text, *stop_tokens])
    drawable[ids[ids < vocab_size]] = True
    if not drawable.any():
        raise InputError(
            f"the tokenizer has text for none of the model's ids, 0 to {vocab_size - 1}; give its own"
        )
    return None if drawable.all() else drawable


def check_prompts(prompts: Sequence[Sequence[int]], config: TrainConfig) -> None:
    """Refuse a prompt that is empty or longer than the context."""
    for prompt in prompts:
        if not 0 < len(prompt) <= config.model.context_length:
            raise InputError(
                f"the prompt has {len(prompt)} tokens; give from 1 to the model's context_length "
                f"{config.model.context_length}"
            )


def check_prefixes(prefixes: Sequence[Sequence[int]], config: TrainConfig) -> None:
    """Refuse a prefix that is empty or longer than the model's longest."""
    longest = config.model.prefix_length or 0
    for prefix in prefixes:
        if not 0 < len(prefix) <= longest:
            raise InputError(
                f"the prefix has {len(prefix)} tokens; give from 1 to the model's prefix_length {longest}"
            )


def _log_probability(logits: Float[np.ndarray, " V"], token: int) -> float:
    shifted = logits.astype(np.float64) - logits.max()
    return float(shifted[token] - np.log(np.exp(shifted).sum()))


class Completion:
    """The text that continues one prompt: grows by whole characters, and never into a stop text."""

    def __init__(self, prompt: str, tokenizer: Tokenizer, stop: tuple[str, ...] = ()) -> None:
        self.prompt = prompt
        self.text = ""
        self.drawn: list[Drawn] = []
        self.ending: Ending | None = None
        self._tokenizer = tokenizer
        self._stop = stop
        # A character may be spread over several tokens.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def add(self, drawn: Drawn) -> str:
        """Take one more token and return the text that is certain now; at a stop text, the ending is "stop"."""
        self.drawn.append(drawn)
        self._held += self._decoder.decode(self._tokenizer.decode_bytes([drawn.token]))
        found = [at for text in self._stop if (at := self._held.find(text)) >= 0]
        if found:
            self.ending = "stop"
            return self._give(min(found), drop_rest=True)
        # An end that a stop text begins with waits for what follows.
        waiting = max(
            (n for text in self._stop for n in range(1, len(text)) if self._held.endswith(text[:n])),
            default=0,
        )
        return self._give(len(self._held) - waiting)

    def finish(self, ending: Ending = "interrupted") -> str:
        """End the text, if it has not ended, and return what was held back, half characters as U+FFFD."""
        if self.ending is not None:
            return ""
        self.ending = ending
        self._held += self._decoder.decode(b"", final=True)
        return self._give(len(self._held))

    def _give(self, n: int, drop_rest: bool = False) -> str:
        text, self._held = self._held[:n], "" if drop_rest else self._held[n:]
        self.text += text
        return text


def complete(
    steps: tuple[Prefill, DecodeStep],
    state: Any,
    config: TrainConfig,
    tokenizer: Tokenizer,
    completions: Sequence[Completion],
    sampling: SamplingConfig,
    stop_token: str | None = None,
    log_probabilities: bool = False,
    ends: Ends | None = None,
) -> Iterator[tuple[Completion, str]]:
    """Let the completions grow to their ends, and return each with its new text, as it comes.

    Args:
        completions: `sampling.samples` of each prompt in a row. An empty prompt is the start of a new text; an
            encoder-decoder's is the prefix, which may not be empty.
        stop_token: Special token that ends a text, or none if empty; the model's own ends, if not given.
        ends: The model's own ends; its tokenizer's, if not given.

    Raises:
        InputError: a prompt is longer than the context, or empty where the model has no token that begins or ends a
            text; a prefix is empty or longer than the model's longest; or the stop token is unknown.
    """
    texts = [c.prompt for c in completions[:: sampling.samples]]
    ends = ends_of(tokenizer, ends)
    stop_tokens = ends.stop_ids(stop_token, tokenizer)
    drawable = drawable_tokens(tokenizer, stop_tokens, config.model.vocab_size)
    endings: dict[int, Ending] = {}
    if config.model.architecture == "encoder_decoder":
        prefixes = [tokenizer.encode(text) for text in texts]
        (start,) = ends.begin([])
        grown = prefix_generation(
            *steps,
            state,
            config,
            prefixes,
            sampling,
            start,
            stop_tokens,
            endings,
            log_probabilities,
            drawable,
        )
    else:
        prompts = [ends.begin(tokenizer.encode(text)) for text in texts]
        grown = generate(
            *steps, state, config, prompts, sampling, stop_tokens, endings, log_probabilities, (), drawable
        )
    with explained(lambda: f"{len(completions):,} texts grew at once; give fewer prompts or samples"):
        for drawn in grown:
            completion = completions[drawn.row]
            yield completion, completion.add(drawn)
            if completion.ending == "stop":
                endings[drawn.row] = "stop"
    for row, completion in enumerate(completions):
        yield completion, completion.finish(endings[row])


def opening(prompt: str, config: TrainConfig) -> str:
    """What a text begins with: the prompt, which of an encoder-decoder is another text, not the start of this one."""
    return "" if config.model.architecture == "encoder_decoder" else prompt


def sampler(
    backend: Backend, config: TrainConfig, tokenizer: Tokenizer | None, ends: Ends | None = None
) -> Callable[[Any], str]:
    """A function of a state that returns a sample of its text, always with the same draws; not to be called without a
    tokenizer.

    Args:
        ends: The model's own ends; its tokenizer's, if not given.

    Raises:
        InputError: the prompt is longer than the context, or empty where nothing begins or ends a text.
    """
    if tokenizer is None:
        return lambda state: ""
    steps = backend.make_prefill(config), backend.make_decode_step(config)
    prompt = tokenizer.encode(config.sample_prompt)
    if config.model.architecture == "encoder_decoder":
        check_prefixes([prompt], config)
    else:
        check_prompts([ends_of(tokenizer, ends).begin(prompt)], config)
    sampling = SamplingConfig(max_new_tokens=64, temperature=0.8, seed=config.seed)

    def sample(state: Any) -> str:
        completion = Completion(config.sample_prompt, tokenizer)
        for _ in complete(steps, state, config, tokenizer, [completion], sampling, ends=ends):
            pass
        return opening(config.sample_prompt, config) + completion.text

    return sample
