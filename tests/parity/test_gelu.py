"""Parity and laws of gelu, gelu_tanh, relu and relu2."""

import math

import jax
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


@pytest.mark.parametrize("layer", ["gelu", "gelu_tanh", "relu", "relu2"])
@pytest.mark.parametrize("dtype", DTYPES)
@examples(10)
@given(case=cases("gelu"))
def test_parity(case: Case, layer: str, dtype: Dtype) -> None:
    assert_parity(Case(layer, case.shape, case.seed, case.scale), dtype)


def test_is_the_exact_one() -> None:
    """It is torch's default, not the approximation by tanh, which is off by 4.7e-4."""
    x = np.linspace(-4, 4, 1001)
    exact = torch.nn.functional.gelu(torch.tensor(x)).numpy()
    for output in outputs("gelu", {"x": x}, dtype="float64").values():
        assert_close(output, exact, "float64")


@pytest.mark.parametrize("layer", ["gelu", "gelu_tanh"])
def test_odd_part_is_half_the_identity(layer: str) -> None:
    """gelu(x) - gelu(-x) = x, since Phi(x) + Phi(-x) = 1. The tanh form has this law, too."""
    x = 3 * normal(0, 100)
    plus, minus = outputs(layer, {"x": x}), outputs(layer, {"x": -x})
    for name in plus:
        assert_close(plus[name] - minus[name], x)


def test_the_tail_keeps_its_digits() -> None:
    """1 + erf(-6) is 0 in float32. The tail's condition number is x^2, so 36 roundings and a few are allowed."""
    x = np.array([-6.0])
    expected = -6 * math.erfc(6 / 2**0.5) / 2
    for output in outputs("gelu", {"x": x}).values():
        assert ulps(output, np.array([expected]), "float32") <= ULPS + 36


def test_the_tanh_form_is_that_of_both_frameworks_and_not_the_exact_one() -> None:
    """It differs from the exact one by up to 4.7e-4."""
    x = np.linspace(-4, 4, 1001)
    theirs = torch.nn.functional.gelu(torch.tensor(x), approximate="tanh").numpy()
    for output in outputs("gelu_tanh", {"x": x}, dtype="float64").values():
        assert_close(output, theirs, "float64")
        assert 4.6e-4 < np.abs(output - oracle.gelu(x)).max() < 4.8e-4


def test_the_tanh_forms_tail_keeps_its_digits() -> None:
    """1 + tanh(u) cancels if x is negative: at -4 it has three correct digits left in float32."""
    x = np.array([-4.0])
    u = (2 / math.pi) ** 0.5 * (4.0 + 0.044715 * 64.0)
    expected = -4.0 / (1 + math.exp(2 * u))
    for output in outputs("gelu_tanh", {"x": x}).values():
        assert ulps(output, np.array([expected]), "float32") <= ULPS + 24


def test_relu2_is_the_square_of_relu() -> None:
    """At 0 its gradient is 0, from both sides."""
    for output, gradients in answers("relu2", {"x": np.array([-3.0, 0.0, 3.0])}).values():
        np.testing.assert_array_equal(output, [0, 0, 9])
        np.testing.assert_array_equal(gradients["x"], [0, 0, 6])


def test_relu_at_zero() -> None:
    """Its gradient at 0 is 0 in both backends; that of torch's clamp is 1."""
    for output, gradients in answers("relu", {"x": np.array([-1.0, 0.0, 2.0])}).values():
        np.testing.assert_array_equal(output, [0, 0, 2])
        np.testing.assert_array_equal(gradients["x"], [0, 0, 1])


def test_bfloat16_is_computed_in_float32() -> None:
    """Only the result is rounded."""
    x = as_dtype(3 * normal(1, 64), "bfloat16")
    for output in outputs("gelu", {"x": x}, dtype="bfloat16").values():
        np.testing.assert_array_equal(output, as_dtype(oracle.gelu(x), "bfloat16"))


def test_the_oracles_tanh_form_is_the_one_of_both_frameworks() -> None:
    x = np.linspace(-6, 6, 97)
    assert_close(
        torch.nn.functional.gelu(torch.tensor(x), approximate="tanh").numpy(), oracle.gelu_tanh(x), "float64"
    )
    assert_close(np.asarray(jax.nn.gelu(x, approximate=True)), oracle.gelu_tanh(x), "float64")
