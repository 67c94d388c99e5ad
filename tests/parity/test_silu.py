"""silu: parity, ULPs included, and its laws."""

import numpy as np
import pytest
from hypothesis import given

from lm.parity import oracle
from lm.parity.budgets import ULPS, Dtype, ulps
from lm.parity.cases import Case
from tests.parity.support import DTYPES, answers, assert_close, assert_parity, cases, examples, normal


@pytest.mark.parametrize("dtype", DTYPES)
@examples(10)
@given(case=cases("silu"))
def test_parity(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


def test_odd_part_is_half_the_identity() -> None:
    """silu(x) - silu(-x) = x, since sigmoid(x) + sigmoid(-x) = 1."""
    x = 3 * normal(0, 100)
    plus, minus = answers("silu", {"x": x}), answers("silu", {"x": -x})
    for name in plus:
        assert_close(plus[name][0] - minus[name][0], x)


def test_far_from_zero() -> None:
    """The identity to the right, zero to the left, without overflow, and accurate to the end of the range."""
    x = np.array([-1e30, -1000.0, -85.0, -20.0, 20.0, 85.0, 1000.0, 1e30])
    expected = oracle.silu(x)
    for output, gradients in answers("silu", {"x": x}).values():
        assert ulps(output, expected, "float32") <= ULPS
        assert_close(gradients["x"], [0, 0, 0, 0, 1, 1, 1, 1], kind="gradient")
