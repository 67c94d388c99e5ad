"""Parity and laws of cross_entropy and token_cross_entropy."""

import numpy as np
import pytest
from hypothesis import given

from lm.budgets import Dtype
from parity import oracle
from parity.case import Case
from tests.parity.support import (
    DTYPES,
    answers,
    assert_close,
    assert_parity,
    cases,
    examples,
    normal,
    outputs,
)

TARGETS = np.array([[0, 6, 3], [2, 2, 5]])


@pytest.mark.parametrize("layer", ["cross_entropy", "token_cross_entropy", "token_cross_entropy with z-loss"])
@pytest.mark.parametrize("dtype", DTYPES)
@examples(8)
@given(case=cases("cross_entropy"))
def test_parity(case: Case, layer: str, dtype: Dtype) -> None:
    assert_parity(Case(layer, case.shape, case.seed, case.scale), dtype)


def test_equals_minus_log_softmax() -> None:
    logits = normal(0, 2, 3, 7)
    softmax = outputs("softmax", {"x": logits}, axis=-1)
    for name, losses in outputs("token_cross_entropy", {"logits": logits}, {"targets": TARGETS}).items():
        at_targets = np.take_along_axis(softmax[name], TARGETS[..., None], -1)[..., 0]
        assert_close(losses, -np.log(at_targets))


def test_is_the_mean_over_all_positions() -> None:
    logits, constants = {"logits": normal(1, 2, 3, 7)}, {"targets": TARGETS}
    means = outputs("cross_entropy", logits, constants)
    for name, losses in outputs("token_cross_entropy", logits, constants).items():
        assert_close(means[name], losses.mean())


def test_huge_logits_neither_overflow_nor_lose_the_loss() -> None:
    """The loss of a target that is 3e38 below the largest logit is 3e38, not infinity."""
    logits = np.array([[3e38, 0.0, -1e30], [1e4, -1e4, 0.0]])
    targets = np.array([1, 1])
    expected = oracle.token_cross_entropy(logits, targets)
    for losses, gradients in answers(
        "token_cross_entropy", {"logits": logits}, {"targets": targets}
    ).values():
        assert_close(losses, expected)
        np.testing.assert_array_equal(gradients["logits"], [[1, -1, 0], [1, -1, 0]])


def test_gradient_sums_to_zero_over_the_vocabulary() -> None:
    for _, gradients in answers(
        "cross_entropy", {"logits": normal(2, 2, 3, 7)}, {"targets": TARGETS}
    ).values():
        flow = np.linalg.norm(gradients["logits"])
        assert_close(gradients["logits"].sum(-1), 0, kind="gradient", flow=flow)


def test_bfloat16_logits_are_summed_in_float32() -> None:
    """Each of 4,096 equal logits has probability 1/4096; a bfloat16 sum of their exponentials stops at 256."""
    arrays, constants = {"logits": np.zeros((1, 4096))}, {"targets": np.array([7])}
    for losses in outputs("token_cross_entropy", arrays, constants, dtype="bfloat16").values():
        assert_close(losses, np.log(4096))
