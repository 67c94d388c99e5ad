"""Parity and laws of rope."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from lm.budgets import Dtype, as_dtype
from lm.config import ModelConfig
from lm.init import position_tables, rope_tables
from parity import oracle
from parity.case import Case
from parity.draws import model_weights
from tests.parity.support import (
    DTYPES,
    assert_close,
    assert_parity,
    cases,
    examples,
    logits,
    normal,
    outputs,
)
from tests.parity.test_family import model


@pytest.mark.parametrize("dtype", DTYPES)
@examples(8)
@given(case=cases("rope"))
def test_parity(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


def rotated(x: np.ndarray, positions: np.ndarray, dtype: Dtype = "float32") -> dict[str, np.ndarray]:
    """Return each backend's rope of x."""
    return outputs("rope", {"x": x}, {"positions": positions}, dtype, d_head=x.shape[-1], theta=1e4)


def test_keeps_the_norm_of_every_pair() -> None:
    x = normal(0, 2, 5, 8)
    for output in rotated(x, np.array([0, 1, 100, 2047, 10**6])).values():
        assert_close(*(np.linalg.norm(a.reshape(2, 5, 4, 2), axis=-1) for a in (output, x)))


@pytest.mark.parametrize("scaling", ["linear", "llama3"])
def test_a_factor_of_1_scales_nothing(scaling: str) -> None:
    """Blending a frequency with itself may round it."""
    config, rng = model({"rope_scaling": scaling, "rope_original_context": 64}, 1), np.random.default_rng(0)
    weights, ids = model_weights(rng, config), rng.integers(0, 11, (2, 6))
    plain = logits(replace(config, rope_scaling="none"), weights, ids)
    for backend, found in logits(config, weights, ids).items():
        assert_close(found, plain[backend], "float64", "model_forward")
    for backend, found in logits(replace(config, rope_factor=8.0), weights, ids).items():
        assert np.abs(found - plain[backend]).max() > 1e-3


def test_linear_scaling_reads_positions_that_are_closer() -> None:
    """Divided by 4, positions 0, 4, 8 .. are those of a model without scaling."""
    config = ModelConfig(11, 64, 8, 1, 1, rope_theta=100.0, rope_scaling="linear", rope_factor=4.0)
    scaled = position_tables(config, 4 * np.arange(7), 64)
    for table, expected in zip(scaled, rope_tables(100.0, 8, np.arange(7)), strict=True):
        np.testing.assert_allclose(table, expected, atol=1e-15)


def test_position_zero_is_the_identity() -> None:
    x = normal(1, 3, 8)
    for output in rotated(x, np.zeros(3, int)).values():
        np.testing.assert_array_equal(output, x)


@pytest.mark.parametrize("shift", [1, 1000])
def test_products_depend_on_position_differences_alone(shift: int) -> None:
    q, k = normal(2, 6, 8), normal(3, 6, 8)
    positions = np.arange(6)
    here, there = (
        (rotated(q, p, "float64"), rotated(k, p, "float64")) for p in (positions, positions + shift)
    )
    for name in ("torch", "jax"):
        a, b = (q[name] @ k[name].T for q, k in (here, there))
        assert_close(a, b, "float64")


def test_neighbours_are_the_pairs() -> None:
    """A quarter turn takes (x0, x1) to (-x1, x0); a half-split rotation would mix x0 with x2."""
    x = np.array([[1.0, 2.0, 3.0, 4.0]])
    quarter = {"cos": np.zeros((1, 2)), "sin": np.ones((1, 2))}
    for name, output in outputs("rope", {"x": x}, quarter, "float64").items():
        np.testing.assert_array_equal(output, [[-2, 1, -4, 3]], err_msg=name)


def test_half_split_rotation_is_a_permutation_of_ours() -> None:
    """Rotating halves, as GPT-NeoX and Hugging Face do, equals our rotation with permuted rows of the weights."""
    x, positions = normal(4, 5, 8), np.arange(5)
    cos, sin = rope_tables(1e4, 8, positions)
    first, second = x[:, :4], x[:, 4:]
    half_split = np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    to_pairs = np.arange(8).reshape(2, 4).T.ravel()
    for output in rotated(x[:, to_pairs], positions).values():
        assert_close(output, half_split[:, to_pairs])


def test_angles_keep_their_accuracy_far_from_zero() -> None:
    """Computed in float32, an angle at position 100,000 would be off by 4e-3; in bfloat16, above 256, by 1."""
    x, positions = normal(5, 4, 16), np.array([257, 1023, 32_769, 100_001])
    expected = oracle.rope(x, positions, 1e4)
    for output in rotated(x, positions).values():
        assert_close(output, expected)
    x = np.ones((4, 16))
    for output in rotated(x, positions, "bfloat16").values():
        assert_close(output, oracle.rope(x, positions, 1e4), "bfloat16")


def test_bfloat16_is_rotated_in_float32() -> None:
    """Only the result is rounded."""
    x, positions = as_dtype(normal(6, 5, 8), "bfloat16"), np.array([0, 1, 17, 300, 2047])
    for output in rotated(x, positions, "bfloat16").values():
        np.testing.assert_array_equal(output, as_dtype(oracle.rope(x, positions, 1e4), "bfloat16"))


def test_tables_are_those_of_the_paper() -> None:
    cos, sin = rope_tables(100.0, 4, np.array([0, 3]))
    np.testing.assert_allclose(cos, [[1, 1], [np.cos(3), np.cos(0.3)]])
    np.testing.assert_allclose(sin, [[0, 0], [np.sin(3), np.sin(0.3)]])
