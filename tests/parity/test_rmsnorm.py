"""Parity and laws of rmsnorm."""

import numpy as np
import pytest
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
@examples(10)
@given(case=cases("rmsnorm"))
def test_parity(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@examples(4)
@given(case=cases("rmsnorm of 1 + weight"))
def test_parity_of_a_gain_of_1_plus_weight(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


def test_a_weight_of_gain_minus_1_is_that_gain() -> None:
    """The weights are multiples of 1/8, so that gain - 1 is exact."""
    x, gain = normal(5, 6, 8), np.round(8 * normal(6, 8)) / 8
    more: Arrays = {"x": x}
    whole = answers("rmsnorm", more | {"weight": gain}, eps=1e-5)
    offset = answers("rmsnorm of 1 + weight", more | {"weight": gain - 1}, eps=1e-5, offset=1.0)
    for backend, (output, gradients) in offset.items():
        assert_close(output, whole[backend][0])
        for name, gradient in gradients.items():
            assert_close(gradient, whole[backend][1][name], kind="gradient")


def test_ignores_a_scale() -> None:
    """The scale is a power of two, which costs no rounding, and epsilon is small beside the mean square."""
    x, weight = normal(0, 6, 8), normal(1, 8)
    near, far = (
        outputs("rmsnorm", {"x": scale * x, "weight": weight}, eps=1e-5) for scale in (2.0**8, 2.0**20)
    )
    for name in near:
        assert_close(near[name], far[name])


def test_mean_square_is_one_before_the_weight() -> None:
    for output in outputs("rmsnorm", {"x": 30 * normal(2, 6, 8), "weight": np.ones(8)}, eps=1e-5).values():
        assert_close((output**2).mean(-1), 1)


def test_epsilon_is_inside_the_root() -> None:
    """sqrt(0 + 1e-5) is 3.2e-3: outside the root the output would be 316 times larger."""
    x = np.full((1, 4), 2.0**-30)
    for output in outputs("rmsnorm", {"x": x, "weight": np.ones(4)}, eps=1e-5).values():
        assert_close(output, x / np.sqrt(1e-5 + x**2))


def test_denormals_cannot_reach_the_root() -> None:
    """XLA on CPU takes 1e-40 for 0, and rsqrt(0) is infinite; epsilon keeps both backends away from it."""
    for x in (0.0, 1e-40, 1e-30):
        arrays = {"x": np.full((2, 4), x), "weight": np.ones(4)}
        for output, gradients in answers("rmsnorm", arrays, eps=1e-5).values():
            assert_close(output, x / np.sqrt(1e-5), flow=1.0)
            assert_close(gradients["x"], 1e5**0.5, kind="gradient")


def test_bfloat16_is_squared_in_float32() -> None:
    """1 + 2^-7 is a bfloat16 number, but its square is not; only the result is rounded."""
    x = np.full((1, 512), 1 + 2.0**-7)
    for output in outputs("rmsnorm", {"x": x, "weight": np.ones(512)}, dtype="bfloat16", eps=1e-5).values():
        np.testing.assert_array_equal(output, np.ones((1, 512)))
    x, weight = as_dtype(normal(3, 6, 8), "bfloat16"), 1 + normal(4, 8) / 4
    for output in outputs("rmsnorm", {"x": x, "weight": weight}, dtype="bfloat16", eps=1e-5).values():
        np.testing.assert_array_equal(output, as_dtype(oracle.rmsnorm(x, weight), "bfloat16"))
