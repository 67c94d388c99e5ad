"""Parity and laws of softmax."""

import numpy as np
import pytest
from hypothesis import given

from lm.budgets import Dtype, as_dtype
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


@pytest.mark.parametrize("dtype", DTYPES)
@examples(10)
@given(case=cases("softmax"))
def test_parity(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_rows_sum_to_one(axis: int) -> None:
    for output in outputs("softmax", {"x": 5 * normal(0, 4, 5, 6)}, axis=axis).values():
        assert_close(output.sum(axis), 1)


@pytest.mark.parametrize("shift", [1024.0, -1024.0, 2.0**100])
def test_ignores_a_shift(shift: float) -> None:
    """The bits are the same if the shift is exact, whatever its size: nothing overflows."""
    x = np.round(normal(1, 6, 7) * 64) / 64
    shifted = x + shift if abs(shift) < 1e6 else np.full_like(x, shift)
    base = outputs("softmax", {"x": x if abs(shift) < 1e6 else np.zeros_like(x)}, axis=-1)
    for name, output in outputs("softmax", {"x": shifted}, axis=-1).items():
        np.testing.assert_array_equal(output, base[name])


def test_gradient_is_orthogonal_to_a_shift() -> None:
    for _, gradients in answers(
        "softmax", {"x": normal(2, 6, 7)}, cotangent=normal(3, 6, 7), axis=-1
    ).values():
        assert_close(gradients["x"].sum(-1), 0, kind="gradient", flow=np.linalg.norm(gradients["x"]))


def test_bfloat16_is_computed_in_float32() -> None:
    """Only the result is rounded: a sum of 4,096 equal terms in bfloat16 would stop growing at 256."""
    for output in outputs("softmax", {"x": np.zeros((1, 4096))}, dtype="bfloat16", axis=-1).values():
        np.testing.assert_array_equal(output, np.full((1, 4096), 1 / 4096))
    x = as_dtype(normal(4, 6, 7), "bfloat16")
    for output in outputs("softmax", {"x": x}, dtype="bfloat16", axis=-1).values():
        np.testing.assert_array_equal(output, as_dtype(oracle.softmax(x, -1), "bfloat16"))


def test_equal_largest_elements() -> None:
    """The subtracted maximum has no part in the gradient, however many elements are equal to it."""
    x, cotangent = np.array([[2.0, 2.0, 2.0, 0.0]]), np.array([[1.0, 0.0, 0.0, 0.0]])
    p = np.exp(x - 2) / np.exp(x - 2).sum()
    for _, gradients in answers("softmax", {"x": x}, cotangent=cotangent, axis=-1).values():
        assert_close(gradients["x"], p * (cotangent - p[0, 0]), kind="gradient")
