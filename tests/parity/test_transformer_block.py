"""Parity and laws of transformer_block."""

import numpy as np
import pytest
from hypothesis import given

from lm.budgets import Dtype
from parity.case import Case, Given
from parity.problem import Problem
from tests.parity.support import DTYPES, answers, assert_parity, cases, examples

LAYER = "transformer_block"


@pytest.mark.parametrize("dtype", DTYPES)
@examples(2)
@given(case=cases(LAYER))
def test_parity(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


def block(mask: str = "causal") -> Given:
    """Draw the arguments of one block."""
    return Problem(Case(LAYER, (2, 6, 2, 8, 24), 0, mask=mask), "float32").given


def test_is_causal_by_gradient() -> None:
    given, t = block(), 3
    cotangent = np.zeros_like(given.arrays["x"])
    cotangent[:, t] = 1
    for _, gradients in answers(LAYER, given.arrays, given.constants, cotangent, **given.statics).values():
        assert not gradients["x"][:, t + 1 :].any()
        assert gradients["x"][:, : t + 1].all()


def test_without_its_two_branches_it_is_the_identity() -> None:
    """In a pre-norm block the norms stand inside the branches, not on the residual stream."""
    given = block()
    silent = {"attn.output_proj.weight", "ffn.w2.weight"}
    arrays = {name: np.zeros_like(a) if name in silent else a for name, a in given.arrays.items()}
    for output, gradients in answers(LAYER, arrays, given.constants, **given.statics).values():
        np.testing.assert_array_equal(output, arrays["x"])
        np.testing.assert_array_equal(gradients["x"], np.ones_like(arrays["x"]))
