"""Parity and laws of layernorm."""

import numpy as np
import pytest
import torch
from hypothesis import given

from lm.budgets import Dtype, as_dtype
from parity import oracle
from parity.case import Arrays, Case
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
@examples(8)
@given(case=cases("layernorm"))
def test_parity(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@examples(4)
@given(case=cases("layernorm of 1 + weight"))
def test_parity_of_a_gain_of_1_plus_weight(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


def test_a_weight_of_gain_minus_1_is_that_gain() -> None:
    """The weights are multiples of 1/8, so that gain - 1 is exact."""
    x, gain = normal(5, 6, 8), np.round(8 * normal(6, 8)) / 8
    more: Arrays = {"x": x, "bias": normal(7, 8)}
    whole = answers("layernorm", more | {"weight": gain}, eps=1e-5)
    offset = answers("layernorm of 1 + weight", more | {"weight": gain - 1}, eps=1e-5, offset=1.0)
    for backend, (output, gradients) in offset.items():
        assert_close(output, whole[backend][0])
        for name, gradient in gradients.items():
            assert_close(gradient, whole[backend][1][name], kind="gradient")


def arrays(D: int = 8) -> Arrays:
    """Draw an input of six rows, gains and biases."""
    return {"x": normal(0, 6, D), "weight": 1 + normal(1, D) / 4, "bias": normal(2, D)}


def test_is_that_of_torch() -> None:
    given = arrays()
    x, weight, bias = (torch.tensor(given[name]) for name in ("x", "weight", "bias"))
    expected = torch.nn.functional.layer_norm(x, (8,), weight, bias, 1e-5).numpy()
    for output in outputs("layernorm", given, dtype="float64", eps=1e-5).values():
        assert_close(output, expected, "float64")


def test_ignores_a_scale_and_a_shift() -> None:
    """This holds if epsilon is small beside the variance."""
    given = arrays()
    moved = given | {"x": 2.0**12 * given["x"] + 2.0**12}
    near = outputs("layernorm", given | {"x": 2.0**12 * given["x"]}, dtype="float64", eps=1e-5)
    for name, output in outputs("layernorm", moved, dtype="float64", eps=1e-5).items():
        assert_close(output, near[name], "float64")


def test_epsilon_is_inside_the_root() -> None:
    x = np.array([[2.0**-30, -(2.0**-30)]])
    given = {"x": x, "weight": np.ones(2), "bias": np.zeros(2)}
    for output in outputs("layernorm", given, eps=1e-5).values():
        assert_close(output, x / np.sqrt(1e-5 + x**2))


def test_bfloat16_is_computed_in_float32() -> None:
    """Only the result is rounded."""
    given = arrays()
    given["x"] = as_dtype(given["x"], "bfloat16")
    for output in outputs("layernorm", given, dtype="bfloat16", eps=1e-5).values():
        np.testing.assert_array_equal(output, as_dtype(oracle.layernorm(**given, eps=1e-5), "bfloat16"))
