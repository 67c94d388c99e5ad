"""Parity and laws of swiglu and geglu."""

import numpy as np
import pytest
from hypothesis import given

from lm.budgets import Dtype
from parity import oracle
from parity.case import Case
from tests.parity.support import (
    DTYPES,
    assert_close,
    assert_parity,
    cases,
    examples,
    normal,
    outputs,
)


@pytest.mark.parametrize("dtype", DTYPES)
@examples(8)
@given(case=cases("swiglu"))
def test_parity(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@examples(2)
@given(case=cases("geglu"))
def test_parity_of_geglu(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


@pytest.mark.parametrize("layer", ["swiglu", "geglu"])
@pytest.mark.parametrize("name", ["w2.weight", "w3.weight"])
def test_is_linear_in_the_output_and_in_the_ungated_branch(name: str, layer: str) -> None:
    arrays = {"x": normal(0, 5, 6), "w1.weight": normal(1, 9, 6), "w2.weight": normal(2, 6, 9)}
    arrays["w3.weight"] = normal(3, 9, 6)
    once, twice = outputs(layer, arrays), outputs(layer, {**arrays, name: 2 * arrays[name]})
    for backend in once:
        np.testing.assert_array_equal(2 * once[backend], twice[backend])


def test_the_gate_of_geglu_is_gelu_by_tanh() -> None:
    """With unit matrices and an open branch of 1, what is left is the gate."""
    x, unit = normal(0, 5, 6), np.eye(6)
    arrays = {"x": np.concatenate([x, np.ones((5, 1))], 1), "w2.weight": unit}
    arrays["w1.weight"] = np.concatenate([unit, np.zeros((6, 1))], 1)
    arrays["w3.weight"] = np.concatenate([np.zeros((6, 6)), np.ones((6, 1))], 1)
    arrays["w2.weight"] = np.concatenate([unit, np.zeros((1, 6))], 0)
    for output in outputs("geglu", arrays, dtype="float64").values():
        assert_close(output[:, :6], oracle.gelu_tanh(x), "float64")


def test_a_closed_gate_lets_nothing_through() -> None:
    arrays = {"x": np.abs(normal(0, 5, 6)) + 1, "w1.weight": np.full((9, 6), -100.0)}
    arrays |= {"w2.weight": normal(2, 6, 9), "w3.weight": normal(3, 9, 6)}
    for output in outputs("swiglu", arrays).values():
        assert_close(output, 0, flow=1.0)
