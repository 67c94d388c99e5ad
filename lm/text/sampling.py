"""Which token comes next: rules on the model's logits, and a draw that is a pure function of its place."""

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
    """How a text is continued. The rules apply in this order: repetition penalty, temperature, top-k, top-p, min-p."""

    max_new_tokens: int = 256
    """Stop after this many tokens, if nothing else has."""
    temperature: float = 1.0
    """Logits are divided by this; 0 takes the likeliest token."""
    top_k: int | None = None
    """Choose among so many likeliest tokens; among all, if not given."""
    top_p: float = 1.0
    """Choose among the fewest likeliest tokens whose probabilities reach this sum (nucleus sampling)."""
    min_p: float = 0.0
    """Choose among tokens at least this likely, as a share of the likeliest one's probability."""
    repetition_penalty: float = 1.0
    """Divide the logits above 0, and multiply those below, of tokens already in the prompt or text; 1 does nothing."""
    stop: tuple[str, ...] = ()
    """Texts that end the continuation; they are not part of it."""
    samples: int = 1
    """Continuations of each prompt."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        for name, fits, mend in (
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
                raise InputError(f"{name} is {getattr(self, name)}: {mend}")

    @property
    def truncates(self) -> bool:
        """Whether a rule leaves tokens out."""
        return self.top_k is not None or self.top_p < 1 or self.min_p > 0


def next_token_probabilities(
    logits: Float[np.ndarray, " V"], sampling: SamplingConfig
) -> Float[np.ndarray, " V"]:
    """Probabilities of the next token by temperature (not 0), top-k, top-p and min-p, in float64.

    Of equally likely tokens the one with the smaller id counts as the likelier, so that top-k keeps k, and the nucleus
    is the smallest that reaches top_p. What is left sums to 1 after each rule.
    """
    p = np.exp(_below_largest(logits, logits.max().item(), sampling.temperature))
    p /= p.sum()
    if sampling.top_k is not None and sampling.top_k < len(p):
        least = np.partition(p, -sampling.top_k)[-sampling.top_k]
        p = _keep(p, _likeliest(p, least)[: sampling.top_k])
    if sampling.top_p < 1:  # Holtzman et al., 2020, eq. 3
        # Those less likely than this reach 1 - top_p by no means, all together: no need to sort them.
        order = _likeliest(p, (1 - sampling.top_p) / len(p))
        before = np.cumsum(p[order]) - p[order]
        p = _keep(p, order[before < sampling.top_p])
    if sampling.min_p > 0:  # Nguyen et al., 2024, eq. 1
        p = _keep(p, np.flatnonzero(p >= sampling.min_p * p.max()))
    return p


def _below_largest(
    logits: Float[np.ndarray, " N"], largest: float, temperature: float
) -> Float64[np.ndarray, " N"]:
    """(logits - largest) / temperature: no temperature, however small, makes the largest overflow, or hides ties."""
    with np.errstate(over="ignore"):  # -inf is as unlikely as a token can be
        return (logits.astype(np.float64) - largest) / temperature


def _likeliest(p: Float[np.ndarray, " V"], least: float) -> Int[np.ndarray, " N"]:
    """The ids of probability `least` or more, the likeliest first, the smaller first of equals."""
    ids = np.flatnonzero(p >= least)
    return ids[np.argsort(-p[ids], kind="stable")]


def _keep(p: Float[np.ndarray, " V"], ids: Int[np.ndarray, " N"]) -> Float[np.ndarray, " V"]:
    left = np.zeros_like(p)
    left[ids] = p[ids] / p[ids].sum()
    return left


def penalised(
    logits: Float[np.ndarray, " V"], seen: Sequence[int], penalty: float
) -> Float[np.ndarray, " V"]:
    """Logits of the tokens seen, divided by the penalty where above 0, multiplied where below.

    Keskar et al., 2019, section 4.1, which forgets the sign.
    """
    if penalty == 1:
        return logits
    logits, ids = logits.copy(), np.unique(np.asarray(seen, np.int64))
    limits = np.finfo(logits.dtype)
    penalty = min(max(penalty, float(limits.tiny)), float(limits.max))
    with np.errstate(over="ignore"):
        changed = np.where(logits[ids] > 0, logits[ids] / penalty, logits[ids] * penalty)
    logits[ids] = changed.clip(limits.min, limits.max)  # stays a number
    return logits


MARGIN = 1.0
"""How far behind the winner a runner-up is sure to be found, in units of log p."""
LOUD = 3.0
"""Noise that one token in twenty has, or more."""


class Noise:
    """The Gumbel noise (Gumbel, 1954) of one draw, for each token of the vocabulary: computed where it is asked for."""

    def __init__(self, seed: int, sample: int, position: int, size: int) -> None:
        self.bits = philox(seed, f"sample/{sample}", position).random_raw(size)
        """64 random ones for each token; of two tokens, that with the larger number is the louder."""

    def of(self, ids: Int[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
        """-log(-log(u)), u uniform in (0, 1)."""
        return -np.log(-np.log(uniform(self.bits[ids])))

    @cached_property
    def loud(self) -> tuple[Int[np.ndarray, " N"], Float64[np.ndarray, " N"]]:
        """The ids whose noise is LOUD or more, and it."""
        ids = (self.bits >= _least_bits(LOUD)).nonzero()[0]
        return ids, self.of(ids)

    @cached_property
    def largest(self) -> tuple[int, float]:
        """The loudest id, and its noise."""
        token = int(self.bits.argmax())
        return token, self.of(np.array([token])).item()


def _least_bits(noise: float) -> np.uint64:
    """Bits below which all Gumbel noise is less than this."""
    # -log(-log(u)) of the smallest u, 2^-53, is -3.6.
    u = math.exp(-math.exp(-max(noise, -4.0)))
    return np.uint64(max(0, int(u * 2.0**52) - 2) << 12)


class Choice(NamedTuple):
    """A token, and how nearly another one was chosen in its place."""

    token: int
    runner_up: int
    gap: float
    """How far the runner-up lies behind, in units of a logit; infinite without a rival. Of a runner-up that is further
    behind than MARGIN times the temperature nothing is said for certain."""


def choose_token(
    logits: Float[np.ndarray, " V"],
    seen: Sequence[int],
    sampling: SamplingConfig,
    sample: int,
    noise_of: Callable[[int, int, int, int], Noise] = Noise,
    drawable: Bool[np.ndarray, " V"] | None = None,
) -> Choice:
    """The next token of a text, drawn by the rules of `sampling`: a pure function of the arguments.

    The token is the largest of logit / temperature + Gumbel noise among those that the rules leave; at
    temperature 0, the first of the largest logits.
    Two backends whose logits differ by rounding then choose differently only where the two largest lie that
    close; inverting a cumulative sum, they would at each of its boundaries.

    Args:
        seen: The ids of the prompt and the text so far; how many they are is the position of the draw.
        sample: Which of the prompt's continuations this is.
        noise_of: `Noise`, or what remembers it.
        drawable: Which tokens may be drawn: one at least; all, if not given.
    """
    logits = penalised(logits, seen, sampling.repetition_penalty)
    if drawable is not None:
        logits = np.where(drawable, logits, -np.inf)
    if sampling.temperature == 0:
        return _largest_two(logits, np.arange(len(logits)))
    noise = noise_of(sampling.seed, sample, len(seen), len(logits))
    if sampling.truncates:
        ids = np.flatnonzero(next_token_probabilities(logits, sampling))
        heard = noise.of(ids)
    else:
        ids, heard = _contenders(logits, noise, sampling.temperature)
    scores = _below_largest(logits[ids], logits.max().item(), sampling.temperature) + heard
    choice = _largest_two(scores, ids)
    return choice._replace(gap=choice.gap * sampling.temperature)


def _contenders(
    logits: Float[np.ndarray, " V"], noise: Noise, temperature: float
) -> tuple[Int[np.ndarray, " N"], Float64[np.ndarray, " N"]]:
    """The ids that may win, or come within MARGIN of it, and their noise: few, found without that of all the others.

    The winner's score is no less than that of the loudest token, nor that of the likeliest. Who cannot come near that
    even with the largest logit, or even with the largest noise, is out.
    """
    likely, (loudest, noise_of_loudest) = int(logits.argmax()), noise.largest
    largest, margin = logits.item(likely), 1.001 * MARGIN  # by more than rounding
    # Scores are counted from the largest logit's: of large ones, rounding would leave nothing of the noise.
    below = _below_largest(logits[[loudest]], largest, temperature).item()
    reach = below + noise_of_loudest - margin
    if reach >= LOUD:
        return noise.loud
    reach = max(reach, noise.of(np.array([likely])).item() - margin)
    with np.errstate(over="ignore"):  # what is below any float32 is -inf
        ids = (logits >= largest + (reach - noise_of_loudest) * temperature).nonzero()[0]
    ids = ids[noise.bits[ids] >= _least_bits(reach)]
    return ids, noise.of(ids)


def _largest_two(scores: Float[np.ndarray, " N"], ids: Int[np.ndarray, " N"]) -> Choice:
    token = int(scores.argmax())
    others = scores.copy()
    others[token] = -np.inf
    runner_up = int(others.argmax())
    return Choice(ids.item(token), ids.item(runner_up), scores.item(token) - others.item(runner_up))
