"""Mistakes in softmax."""

from functools import partial

import numpy as np

from parity.mistakes.mistake import all_axes, mistake, rank
from parity.oracle.functional import softmax

of_softmax = partial(
    mistake,
    replaces="softmax",
    formula="exp(x - max(x)) / sum(exp(x - max(x))), both along `dim`",
    source="Goodfellow et al., 2016, eq. 4.1 and section 4.1",
)


@of_softmax("softmax: always along the last axis")
def _(x: np.ndarray, axis: int) -> np.ndarray:
    """`dim` is ignored, and the last axis is taken. The numbers along any other axis do not sum to 1."""
    return softmax(x, -1)


@of_softmax("softmax: always along the first axis")
def _(x: np.ndarray, axis: int) -> np.ndarray:
    """`dim` is ignored, and axis 0 is taken. The numbers sum to 1 over the batch, which mixes its entries."""
    return softmax(x, -rank(x))


@of_softmax("softmax: over all axes at once")
def _(x: np.ndarray, axis: int) -> np.ndarray:
    """The sum is taken over the whole array. All numbers together sum to 1, in place of those along `dim`."""
    exp = np.exp(x - x.real.max())
    return exp / exp.sum(all_axes(x), keepdims=True)


@of_softmax("softmax: maximum along the last axis, sum along dim")
def _(x: np.ndarray, axis: int) -> np.ndarray:
    """The maximum is taken along the last axis, and the sum along `dim`.

    If these axes differ, the subtracted number is not constant along `dim` and does not cancel.
    """
    exp = np.exp(x - x.real.max(-1, keepdims=True))
    return exp / exp.sum(axis, keepdims=True)


@of_softmax("softmax: no maximum subtracted", pitfall="A loss of huge logits")
@np.errstate(all="ignore")
def _(x: np.ndarray, axis: int) -> np.ndarray:
    """exp(x) is computed without subtracting the maximum. It overflows above 88 in float32, and inf / inf is NaN."""
    exp = np.exp(x)
    return exp / exp.sum(axis, keepdims=True)


@of_softmax("softmax: one maximum for the whole array")
@np.errstate(all="ignore")
def _(x: np.ndarray, axis: int) -> np.ndarray:
    """The maximum of the whole array is subtracted in place of the maximum along `dim`.

    A row that lies about 100 below the largest number underflows to zeros in float32, and 0 / 0 is NaN.
    """
    exp = np.exp(x - x.real.max())
    return exp / exp.sum(axis, keepdims=True)


@of_softmax("softmax: logarithm returned")
def _(x: np.ndarray, axis: int) -> np.ndarray:
    """log(softmax(x)) is returned. All numbers are negative and do not sum to 1."""
    shifted = x - x.real.max(axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


for _eps in (1e-5, 1e-6, 1e-8, 1e-9, 1e-10, 1e-12):

    @of_softmax(f"softmax: epsilon {_eps:.0e} in the denominator")
    def _(x: np.ndarray, axis: int, eps: float = _eps) -> np.ndarray:
        """A small number is added to the sum. It is not needed, since the largest exponential is 1, and the
        probabilities no longer sum to 1."""
        exp = np.exp(x - x.real.max(axis, keepdims=True))
        return exp / (exp.sum(axis, keepdims=True) + eps)
