"""Judge both backends beside transformers: numbers in each type, and greedy texts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lm.budgets import BUDGETS
from lm.config import ModelConfig
from parity.check.hf.answer import Numbers, Texts
from parity.check.models import Precision, compare

NEAR = 4.0
"""An error over the threshold is rounding if it is at most this many times the other library's: weights with large
outliers amplify the rounding of every implementation."""
CEILING = 1e-2
"""No error in float32 above this is rounding."""


@dataclass(frozen=True)
class Measured:
    """One implementation in one type, beside the float64 oracle."""

    name: str
    precision: Precision

    @property
    def is_ours(self) -> bool:
        """Whether it is one of our backends."""
        return self.name != "transformers"

    @property
    def errors(self) -> tuple[float, ...]:
        """The errors at all `places`."""
        return (*self.precision.drift, self.precision.error)


@dataclass(frozen=True)
class Difference:
    """A token of ours that is not transformers'."""

    name: str
    prompt: int
    """Length of the prompt."""
    step: int
    """Number of the token after the prompt, from 1."""
    ours: int
    theirs: int
    gap: float
    """How much higher transformers' logit of its own token is."""
    is_tie: bool
    """Whether rounding may have decided."""


@dataclass(frozen=True)
class Part:
    """The verdict on one part of the model."""

    name: str
    is_off: bool
    told: str


def places(num_layers: int) -> list[str]:
    """Return the names of the places where errors are measured."""
    layers = [f"layer {i}" for i in range(1, num_layers)]
    return ["embeddings", *layers, f"layer {num_layers} and the final norm", "logits"]


def measure(numbers: Numbers, truth: Numbers, config: ModelConfig) -> Measured:
    """Compare an implementation with the truth."""
    theirs, exact = ([np.asarray(x, np.float64) for x in (n.logits, *n.states)] for n in (numbers, truth))
    return Measured(numbers.name, compare(theirs, exact, config, numbers.dtype))


def first_off(measured: Measured, others: Sequence[Measured]) -> int | None:
    """Return the first place at which rounding does not explain the error.

    Args:
        others: Implementations of the other library.
    """
    dtype, threshold = measured.precision.dtype, measured.precision.threshold
    for i, error in enumerate(measured.errors):
        allowed = max(threshold, NEAR * max(other.errors[i] for other in others))
        if not error <= (min(allowed, CEILING) if dtype == "float32" else allowed):
            return i
    return None


def judge_numbers(measured: Sequence[Measured]) -> Part:
    """Judge all implementations in one type. In bfloat16 transformers is not judged, since it rounds its weights."""
    ours = [m for m in measured if m.is_ours]
    (theirs,) = (m for m in measured if not m.is_ours)
    dtype, names = theirs.precision.dtype, places(len(theirs.precision.drift) - 1)
    off = [(m, i) for m in ours if (i := first_off(m, [theirs])) is not None]
    if off:
        told = "; ".join(
            f"{m.name} is off from {names[i]} on: {m.errors[i]:.0e}, where transformers has {theirs.errors[i]:.0e}"
            for m, i in off
        )
        return Part(dtype, True, told)
    if dtype == "bfloat16":
        ratio = max(m.precision.error for m in ours) / max(theirs.precision.error, 1e-30)
        told = (
            f"the logits of ours are at most {ratio:.1f} times as far from float64 as those of transformers "
            "(activations in bfloat16; weights of ours in float32, of transformers in bfloat16)"
        )
        return Part(dtype, False, told)
    i = first_off(theirs, ours)
    if i is not None:
        told = (
            f"transformers is off from {names[i]} on: {theirs.errors[i]:.0e}. Both of our backends follow our float64 "
            f"oracle, so this repository reads the folder otherwise than transformers does"
        )
        return Part(dtype, True, told)
    worst, error = max(m.precision.error for m in ours), theirs.precision.error
    told = f"the logits of ours are within {worst:.0e} of float64, those of transformers within {error:.0e}"
    return Part(dtype, False, told)


def find_differences(
    ours: Texts, theirs: Texts, prompts: Sequence[Sequence[int]], error: float
) -> list[Difference]:
    """Return the first token of each text that is not transformers'.

    Args:
        error: Relative error of transformers' logits.
    """
    # Each of two logits may be off by this share of the largest.
    rounding = 2 * max(BUDGETS["float32"].model_forward, error)
    found = []
    for prompt, text, their_text, logits in zip(
        prompts, ours.continuations, theirs.continuations, theirs.logits, strict=True
    ):
        step = next(
            (i for i, pair in enumerate(zip(text, their_text, strict=True)) if pair[0] != pair[1]), None
        )
        if step is not None:
            a, b, at = text[step], their_text[step], logits[step].astype(np.float64)
            gap = float(at[b] - at[a])
            found.append(
                Difference(
                    ours.name, len(prompt), step + 1, a, b, gap, gap <= rounding * float(np.abs(at).max())
                )
            )
    return found


def judge_texts(differences: Sequence[Difference], texts: int, tokens: int) -> Part:
    """Judge the greedy texts."""
    wrong = [d for d in differences if not d.is_tie]
    if wrong:
        first = wrong[0]
        more = f" (and {len(wrong) - 1} more differ)" if len(wrong) > 1 else ""
        told = (
            f"{first.name}: token {first.step} after the prompt of {first.prompt:,} tokens is {first.ours}; "
            f"transformers has {first.theirs}, whose logit is {first.gap:.1g} higher{more}"
        )
        return Part("text", True, told)
    ties = f", up to {len(differences)} near ties" if differences else ""
    told = (
        f"both backends continue all {texts} prompts by transformers' {tokens} tokens, with a cache, in one batch, and "
        f"without a cache{ties}"
    )
    return Part("text", False, told)
