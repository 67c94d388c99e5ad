"""Parity of silu, in units in the last place too, and its laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given

from lm.budgets import ULPS, Dtype, as_dtype, ulps
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
@given(case=cases("silu"))
def test_parity(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


def test_odd_part_is_half_the_identity() -> None:
    """silu(x) - silu(-x) = x, since sigmoid(x) + sigmoid(-x) = 1."""
    x = 3 * normal(0, 100)
    plus, minus = outputs("silu", {"x": x}), outputs("silu", {"x": -x})
    for name in plus:
        assert_close(plus[name] - minus[name], x)


def test_far_from_zero() -> None:
    """silu is the identity to the right and zero to the left, without overflow, to the end of the range."""
    x = np.array([-1e30, -1000.0, -85.0, -20.0, 20.0, 85.0, 1000.0, 1e30])
    expected = oracle.silu(x)
    for output, gradients in answers("silu", {"x": x}).values():
        assert ulps(output, expected, "float32") <= ULPS
        assert_close(gradients["x"], [0, 0, 0, 0, 1, 1, 1, 1], kind="gradient")


def test_is_no_gelu() -> None:
    """GELU is exact by default in torch and approximate in JAX. The two differ by 4.7e-4, and silu is neither."""
    x = np.linspace(-4, 4, 1001)
    exact = torch.nn.functional.gelu(torch.tensor(x)).numpy()
    approximate = np.asarray(jax.nn.gelu(jnp.array(x)))
    assert np.abs(exact - approximate).max() == pytest.approx(4.7e-4, rel=0.01)
    for output in outputs("silu", {"x": x}, dtype="float64").values():
        assert np.abs(output - exact).max() > 0.1


def test_bfloat16_is_computed_in_float32() -> None:
    """Only the result is rounded."""
    x = as_dtype(3 * normal(1, 64), "bfloat16")
    for output in outputs("silu", {"x": x}, dtype="bfloat16").values():
        np.testing.assert_array_equal(output, as_dtype(oracle.silu(x), "bfloat16"))
