"""Text from a model, one token at a time; which token is NumPy's business, so both backends write the same."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from lm.backend import Backend, DecodeStep, Prefill
from lm.config import TrainConfig
from lm.rng import philox, uniform
from tokenizer import Tokenizer
from tokenizer.errors import InputError

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class SamplingConfig:
    """How a token is chosen from the model's probabilities."""

    max_new_tokens: int = 256
    """Stop after this many tokens, if nothing else has."""
    temperature: float = 1.0
    """Logits are divided by this; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Choose among the fewest likeliest tokens whose probabilities reach this sum (nucleus sampling)."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {self.max_new_tokens}: give 1 or more")
        if not self.temperature >= 0:
            raise InputError(f"temperature is {self.temperature}: give 0 (the likeliest token) or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}: give a number above 0, and at most 1")
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed is {self.seed}: give a number from 0 to 2^64 - 1")


def next_token_probabilities(
    logits: Float[np.ndarray, " V"], temperature: float, top_p: float
) -> Float[np.ndarray, " V"]:
    """Probabilities after temperature and nucleus truncation (Holtzman et al., 2020, eq. 3), in float64.

    The nucleus is the smallest set of likeliest tokens whose probabilities reach top_p; of equally likely tokens
    the one with the smaller id goes in first.
    """
    logits = logits.astype(np.float64)
    if temperature == 0:
        return np.eye(1, len(logits), int(logits.argmax()))[0]
    exp = np.exp((logits - logits.max()) / temperature)
    probabilities = exp / exp.sum()
    if top_p < 1:
        order = np.argsort(-probabilities, kind="stable")
        before = np.cumsum(probabilities[order]) - probabilities[order]
        probabilities[order[before >= top_p]] = 0
        probabilities /= probabilities.sum()
    return probabilities


def choose_token(probabilities: Float[np.ndarray, " V"], seed: int, sample: int, position: int) -> int:
    """Draw a token id, a pure function of the arguments: the largest of log p + Gumbel noise (Gumbel, 1954).

    Two backends whose logits differ by rounding then draw differently only where the two largest lie that close;
    inverting a cumulative sum, they would at each of its boundaries.
    """
    u = uniform(philox(seed, f"sample/{sample}", position).random_raw(len(probabilities)))
    with np.errstate(divide="ignore"):  # log 0 is -inf, and is never the largest
        return int(np.argmax(np.log(probabilities) - np.log(-np.log(u))))


def generate(
    prefill: Prefill,
    decode_step: DecodeStep,
    state: Any,
    config: TrainConfig,
    prompt: list[int],
    sampling: SamplingConfig,
    stop_token: int | None,
) -> Iterator[int]:
    """Read the prompt, and return the tokens that continue it, up to and without the stop token.

    Beyond the context the cache slides: each token sees the context_length tokens before it, at their positions.

    Raises:
        InputError: the prompt is empty or longer than the context.
    """
    T = config.model.context_length
    _check_prompt(prompt, config)
    # Always as long as the context, so that prompts of all lengths share one compiled pass.
    token_ids = np.zeros((1, T), np.int32)
    token_ids[0, : len(prompt)] = prompt
    logits, cache = prefill(state, token_ids, np.array([len(prompt)]))
    return _continue(decode_step, state, logits, cache, len(prompt), sampling, stop_token)


def sampler(backend: Backend, config: TrainConfig, tokenizer: Tokenizer | None) -> Callable[[Any], str]:
    """A function of a state that returns a sample of its text, always with the same draws; not to be called without a
    tokenizer.

    Raises:
        InputError: the prompt is longer than the context.
    """
    if tokenizer is None:
        return lambda state: ""
    steps = backend.make_prefill(config), backend.make_decode_step(config)
    end = tokenizer.special_tokens.get(END_OF_TEXT)
    prompt = tokenizer.encode(config.sample_prompt or END_OF_TEXT)
    _check_prompt(prompt, config)
    sampling = SamplingConfig(max_new_tokens=64, temperature=0.8, seed=config.seed)
    return lambda state: (
        config.sample_prompt + tokenizer.decode(list(generate(*steps, state, config, prompt, sampling, end)))
    )


def _check_prompt(prompt: list[int], config: TrainConfig) -> None:
    if not 0 < len(prompt) <= config.model.context_length:
        raise InputError(
            f"the prompt has {len(prompt)} tokens; give from 1 to the model's context_length "
            f"{config.model.context_length}"
        )


def _continue(
    decode_step: DecodeStep,
    state: Any,
    logits: Float[np.ndarray, "1 V"],
    cache: Any,
    start: int,
    sampling: SamplingConfig,
    stop_token: int | None,
) -> Iterator[int]:
    for position in range(start, start + sampling.max_new_tokens):
        probabilities = next_token_probabilities(logits[0], sampling.temperature, sampling.top_p)
        token = choose_token(probabilities, sampling.seed, 0, position)
        if token == stop_token:
            return
        yield token
        logits, cache = decode_step(state, cache, np.array([token], np.int32), np.array([position]))
