"""Parity and laws of clip_gradients and global_norm."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given

import jax_impl.functional
import torch_impl.functional
from lm.budgets import Dtype
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


@pytest.mark.parametrize("layer", ["global_norm", "clip_gradients"])
@pytest.mark.parametrize("dtype", DTYPES)
@examples(8)
@given(case=cases("clip_gradients"))
def test_parity(case: Case, layer: str, dtype: Dtype) -> None:
    assert_parity(Case(layer, case.shape, case.seed, case.scale), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exactly_at_the_limit_nothing_changes(dtype: Dtype) -> None:
    """The norm of (3, 4) is 5 in any precision, and the 1e-6 in the denominator must not act."""
    for output in outputs(
        "clip_gradients", {"a": np.array([3.0]), "b": np.array([4.0])}, dtype=dtype, max_norm=5.0
    ).values():
        np.testing.assert_array_equal(output, [3, 4])


def test_just_above_the_limit_the_norm_becomes_the_limit() -> None:
    arrays = {"a": normal(0, 30), "b": 100 * normal(1, 7)}
    for output in outputs("clip_gradients", arrays, max_norm=2.0).values():
        assert_close(np.linalg.norm(output), 2)


@pytest.mark.parametrize("max_norm", [0.0, 1.0])
def test_zero_gradients_stay_zero(max_norm: float) -> None:
    for output in outputs("clip_gradients", {"a": np.zeros(3), "b": np.zeros(2)}, max_norm=max_norm).values():
        np.testing.assert_array_equal(output, np.zeros(5))


def test_max_norm_zero_stops_all() -> None:
    for output in outputs("clip_gradients", {"a": normal(2, 9)}, max_norm=0.0).values():
        np.testing.assert_array_equal(output, np.zeros(9))


def test_tiny_gradients_are_not_scaled_up() -> None:
    """Squares of 1e-25 vanish in float32: the norm is 0 in both backends, and the gradients stay unchanged."""
    tiny = np.full(5, np.float64(np.float32(1e-25)))
    norms = outputs("global_norm", {"a": tiny})
    assert [float(norm) for norm in norms.values()] == [0.0] * len(norms)
    for output in outputs("clip_gradients", {"a": tiny}, max_norm=1.0).values():
        np.testing.assert_array_equal(output, tiny)


def test_bfloat16_gradients_are_measured_in_float32() -> None:
    """In bfloat16 a sum of ones stops growing at 256."""
    for norm in outputs("global_norm", {"a": np.ones(4096)}, dtype="bfloat16").values():
        assert float(norm) == 64


def test_millions_of_float32_gradients() -> None:
    """One sum of 4 million squares, which torch's norm computes on a CPU, loses four digits."""
    gradient = normal(2, 1 << 13, 512)
    exact = np.linalg.norm(gradient)
    assert_close(torch_impl.functional.global_norm([torch.tensor(gradient, dtype=torch.float32)]), exact)
    assert_close(jax_impl.functional.global_norm([jnp.array(gradient, np.float32)]), exact)
