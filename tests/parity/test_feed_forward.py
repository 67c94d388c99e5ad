"""Parity and laws of feed_forward."""

from typing import Any

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
@given(case=cases("feed_forward"))
def test_parity(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


@pytest.mark.parametrize("kind", ["silu", "gelu", "gelu_tanh", "relu", "relu2"])
def test_is_two_products_around_an_activation(kind: Any) -> None:
    arrays = {"x": normal(0, 5, 6), "w1.weight": normal(1, 9, 6), "w2.weight": normal(2, 6, 9)}
    arrays |= {"w1.bias": normal(3, 9), "w2.bias": normal(4, 6)}
    hidden = oracle.ACTIVATIONS[kind](arrays["x"] @ arrays["w1.weight"].T + arrays["w1.bias"])
    for output in outputs("feed_forward", arrays, dtype="float64", kind=kind).values():
        assert_close(output, hidden @ arrays["w2.weight"].T + arrays["w2.bias"], "float64")


def test_relu_is_homogeneous() -> None:
    arrays = {"x": normal(0, 5, 6), "w1.weight": normal(1, 9, 6), "w2.weight": normal(2, 6, 9)}
    once = outputs("feed_forward", arrays, kind="relu")
    twice = outputs("feed_forward", arrays | {"x": 2 * arrays["x"]}, kind="relu")
    for name in once:
        np.testing.assert_array_equal(2 * once[name], twice[name])
