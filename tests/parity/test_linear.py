"""linear: parity, and its laws."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given

import jax_impl.layers
from lm.parity.budgets import Dtype
from lm.parity.case import Case
from tests.parity.support import (
    DTYPES,
    answers,
    assert_close,
    assert_parity,
    cases,
    examples,
    normal,
)
from torch_impl import fused


@pytest.mark.parametrize("dtype", DTYPES)
@examples(10)
@given(case=cases("linear"))
def test_parity(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@examples(5)
@given(case=cases("linear with bias"))
def test_parity_with_bias(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


def test_the_weight_is_d_out_by_d_in() -> None:
    """Row o of the weight makes output o: on small integers exactly, in both directions."""
    x, weight = np.array([[1.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
    for output, gradients in answers("linear", {"x": x, "weight": weight}).values():
        np.testing.assert_array_equal(output, [[1, 2, 11]])
        np.testing.assert_array_equal(gradients["x"], [[4, 5]])
        np.testing.assert_array_equal(gradients["weight"], [[1, 2], [1, 2], [1, 2]])


def test_is_homogeneous() -> None:
    """Twice the input is twice the output, bit by bit: there is no bias."""
    x, weight = normal(0, 3, 8), normal(1, 5, 8)
    once, twice = (answers("linear", {"x": factor * x, "weight": weight}) for factor in (1, 2))
    for name in once:
        np.testing.assert_array_equal(2 * once[name][0], twice[name][0])


@pytest.mark.parametrize("rows", [1, 2, 8, 9, 64, 65])
@pytest.mark.parametrize("d_out", [256, 48, 5])
@pytest.mark.parametrize("is_intel", [True, False])
def test_few_rows_as_in_decoding(
    rows: int, d_out: int, is_intel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without gradients the product takes other forms, by processor, number of rows, and the blocks that d_out has."""
    monkeypatch.setattr(fused, "_IS_INTEL", is_intel)
    x, weight = normal(0, rows, 1, 12), normal(1, d_out, 12)
    expected = np.einsum("btd,od->bto", x, weight)
    with torch.no_grad():
        by_torch = fused.product(torch.tensor(x), torch.tensor(weight))
    # The weights first, on Intel's processors, give a transpose.
    assert by_torch.is_contiguous() == (not is_intel or not 8 < rows <= 64)
    assert_close(by_torch.numpy(), expected, "float64")
    by_jax = np.asarray(jax_impl.layers.product(jnp.asarray(x), jnp.asarray(weight)))
    assert_close(by_jax, expected, "float64")
