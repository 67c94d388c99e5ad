"""Choose the next token: rules on the model's logits, then a draw that depends on (seed, sample, position) alone."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from lm.rng import philox, uniform
from tokenizer.errors import InputError


@dataclass(frozen=True)
class SamplingConfig:
    """How to continue a text. The rules apply in this order: repetition penalty, temperature, top-k, top-p, min-p."""

    max_new_tokens: int = 256
    """Stop after at most this many tokens."""
    temperature: float = 1.0
    """Divide the logits by this. 0 takes the likeliest token."""
    top_k: int | None = None
    """Choose among this many of the likeliest tokens; by default among all."""
    top_p: float = 1.0
    """Choose among the fewest of the likeliest tokens whose probabilities sum to at least this (nucleus sampling)."""
    min_p: float = 0.0
    """Choose among tokens whose probability is at least this share of the likeliest token's."""
    repetition_penalty: float = 1.0
    """Penalize tokens that are already in the prompt or text: divide their logits by this if positive, multiply them if
    negative. 1 changes nothing."""
    stop: tuple[str, ...] = ()
    """Texts that end the continuation. They are not part of it."""
    samples: int = 1
    """Number of continuations of each prompt."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        for name, fits, remedy in (
            ("max_new_tokens", self.max_new_tokens >= 1, "give 1 or more"),
            (
                "temperature",
                0 <= self.temperature <= sys.float_info.max,
                "give 0 (the likeliest token) or more",
            ),
            ("top_k", self.top_k is None or self.top_k >= 1, "give 1 or more"),
            ("top_p", 0 < self.top_p <= 1, "give a number above 0, and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "give a number from 0 to 1"),
            (
                "repetition_penalty",
                0 < self.repetition_penalty <= sys.float_info.max,
                "give a number above 0",
            ),
            ("stop", all(self.stop), "give texts of one character or more"),
            ("samples", self.samples >= 1, "give 1 or more"),
            ("seed", 0 <= self.seed < 2**64, "give a number from 0 to 2^64 - 1"),
        ):
            if not fits:
                raise InputError(f"{name} is {getattr(self, name)}: {remedy}")

    @property
    def truncates(self) -> bool:
        """Whether a rule excludes tokens."""
        return self.top_k is not None or self.top_p < 1 or self.min_p > 0


def next_token_probabilities(
    logits: Float[np.ndarray, " V"], sampling: SamplingConfig
) -> Float[np.ndarray, " V"]:
    """Return the probabilities of the next token after temperature (not 0), top-k, top-p and min-p, in float64.

    Among equally likely tokens, the smaller id counts as likelier. So top-k keeps exactly k tokens, and the nucleus is
    the smallest that reaches top_p. The remaining probabilities sum to 1 after each rule.
    """
    p = np.exp(_scaled_logits(logits, logits.max().item(), sampling.temperature))
    p /= p.sum()
    if sampling.top_k is not None and sampling.top_k < len(p):
        least = np.partition(p, -sampling.top_k)[-sampling.top_k]
        p = _restrict(p, _sort_likely(p, least)[: sampling.top_k])
    if sampling.top_p < 1:  # Holtzman et al., 2020, eq. 3
        # All tokens less likely than this have at most 1 - top_p together, so they need no sorting.
        order = _sort_likely(p, (1 - sampling.top_p) / len(p))
        before = np.cumsum(p[order]) - p[order]
        p = _restrict(p, order[before < sampling.top_p])
    if sampling.min_p > 0:  # Nguyen et al., 2024, eq. 1
        p = _restrict(p, np.flatnonzero(p >= sampling.min_p * p.max()))
    return p


def _scaled_logits(
    logits: Float[np.ndarray, " N"], largest: float, temperature: float
) -> Float64[np.ndarray, " N"]:
    """Return (logits - largest) / temperature. Even at a tiny temperature the largest is 0, and ties stay ties."""
    with np.errstate(over="ignore"):  # -inf is as unlikely as a token can be
        return (logits.astype(np.float64) - largest) / temperature


def _sort_likely(p: Float[np.ndarray, " V"], least: float) -> Int[np.ndarray, " N"]:
    """Return the ids with probability at least `least`, the likeliest first, and the smaller id first among equals."""
    ids = np.flatnonzero(p >= least)
    return ids[np.argsort(-p[ids], kind="stable")]


def _restrict(p: Float[np.ndarray, " V"], ids: Int[np.ndarray, " N"]) -> Float[np.ndarray, " V"]:
    """Return the probabilities of these ids, scaled to sum to 1. All others are 0."""
    kept = np.zeros_like(p)
    kept[ids] = p[ids] / p[ids].sum()
    return kept


def penalize_repetition(
    logits: Float[np.ndarray, " V"], previous: Sequence[int], penalty: float
) -> Float[np.ndarray, " V"]:
    """Return logits in which those of previous tokens are divided by the penalty if positive, multiplied if negative.

    Keskar et al., 2019, section 4.1, divide negative logits too, which would make these tokens likelier.
    """
    if penalty == 1:
        return logits
    logits, ids = logits.copy(), np.unique(np.asarray(previous, np.int64))
    limits = np.finfo(logits.dtype)
    penalty = min(max(penalty, float(limits.tiny)), float(limits.max))
    with np.errstate(over="ignore"):
        changed = np.where(logits[ids] > 0, logits[ids] / penalty, logits[ids] * penalty)
    logits[ids] = changed.clip(limits.min, limits.max)  # stays finite
    return logits


MARGIN = 1.0
"""A runner-up is certain to be found if it is at most this far behind the winner, in units of log p."""
LOUD = 3.0
"""Noise that one token in twenty reaches."""


class Noise:
    """The Gumbel noise (Gumbel, 1954) of one draw, for each token of the vocabulary. Computed only for given ids."""

    def __init__(self, seed: int, sample: int, position: int, size: int) -> None:
        self.bits = philox(seed, f"sample/{sample}", position).random_raw(size)
        """64 random bits for each token. The larger number gives the larger noise."""

    def values(self, ids: Int[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
        """Return -log(-log(u)) for each id, with u uniform in (0, 1)."""
        return -np.log(-np.log(uniform(self.bits[ids])))

    @cached_property
    def loud(self) -> tuple[Int[np.ndarray, " N"], Float64[np.ndarray, " N"]]:
        """Ids whose noise is at least LOUD, and that noise."""
        ids = (self.bits >= _least_bits(LOUD)).nonzero()[0]
        return ids, self.values(ids)

    @cached_property
    def largest(self) -> tuple[int, float]:
        """Id with the largest noise, and that noise."""
        token = int(self.bits.argmax())
        return token, self.values(np.array([token])).item()


def _least_bits(noise: float) -> np.uint64:
    """Return a bound on the bits. Every token with smaller bits has less Gumbel noise than `noise`."""
    # -log(-log(u)) of the smallest u, 2^-53, is -3.6.
    u = math.exp(-math.exp(-max(noise, -4.0)))
    return np.uint64(max(0, int(u * 2.0**52) - 2) << 12)


class Choice(NamedTuple):
    """A token, and how close another token came to being chosen."""

    token: int
    runner_up: int
    gap: float
    """How far the runner-up is behind, in units of a logit; infinite if there is no other token. If the gap exceeds
    MARGIN times the temperature, another token may be the true runner-up."""


def choose_token(
    logits: Float[np.ndarray, " V"],
    previous: Sequence[int],
    sampling: SamplingConfig,
    sample: int,
    make_noise: Callable[[int, int, int, int], Noise] = Noise,
    drawable: Bool[np.ndarray, " V"] | None = None,
) -> Choice:
    """Draw the next token of a text by the rules of `sampling`: a pure function of the arguments.

    The token has the largest logit / temperature + Gumbel noise among the tokens that the rules keep. At temperature 0
    it is the first of the largest logits. Two backends whose logits differ by rounding choose different tokens only if
    the two largest scores are that close. If the draw inverted a cumulative sum, they could differ at each of its
    boundaries.

    Args:
        previous: The ids of the prompt and the text so far. Their number is the position of the draw.
        sample: The number of this continuation within its prompt.
        make_noise: `Noise`, or a function that caches it.
        drawable: Which tokens may be drawn, at least one; None means all.
    """
    logits = penalize_repetition(logits, previous, sampling.repetition_penalty)
    if drawable is not None:
        logits = np.where(drawable, logits, -np.inf)
    if sampling.temperature == 0:
        return _largest_two(logits, np.arange(len(logits)))
    noise = make_noise(sampling.seed, sample, len(previous), len(logits))
    if sampling.truncates:
        ids = np.flatnonzero(next_token_probabilities(logits, sampling))
        noise_N = noise.values(ids)
    else:
        ids, noise_N = _contenders(logits, noise, sampling.temperature)
    scores = _scaled_logits(logits[ids], logits.max().item(), sampling.temperature) + noise_N
    choice = _largest_two(scores, ids)
    return choice._replace(gap=choice.gap * sampling.temperature)


def _contenders(
    logits: Float[np.ndarray, " V"], noise: Noise, temperature: float
) -> tuple[Int[np.ndarray, " N"], Float64[np.ndarray, " N"]]:
    """Return the few ids that may win or come within MARGIN of the winner, and their noise.

    The winner's score is at least that of the token with the largest noise, and at least that of the likeliest token. A
    token is excluded if it cannot come near that score even with the largest logit, or even with the largest noise. So
    the noise of most tokens is never computed.
    """
    likeliest, (loudest, noise_of_loudest) = int(logits.argmax()), noise.largest
    largest, margin = logits.item(likeliest), 1.001 * MARGIN  # covers rounding
    # Scores are relative to the largest logit. Rounding of large absolute scores would swallow the noise.
    score_of_loudest = _scaled_logits(logits[[loudest]], largest, temperature).item() + noise_of_loudest
    reach = score_of_loudest - margin
    if reach >= LOUD:
        return noise.loud
    reach = max(reach, noise.values(np.array([likeliest])).item() - margin)
    with np.errstate(over="ignore"):  # a bound below every float32 is -inf
        ids = (logits >= largest + (reach - noise_of_loudest) * temperature).nonzero()[0]
    ids = ids[noise.bits[ids] >= _least_bits(reach)]
    return ids, noise.values(ids)


def _largest_two(scores: Float[np.ndarray, " N"], ids: Int[np.ndarray, " N"]) -> Choice:
    token = int(scores.argmax())
    others = scores.copy()
    others[token] = -np.inf
    runner_up = int(others.argmax())
    return Choice(ids.item(token), ids.item(runner_up), scores.item(token) - others.item(runner_up))
