"""Parity and laws of embedding."""

import numpy as np
import pytest
from hypothesis import given

from lm.budgets import Dtype
from parity.case import Case
from tests.parity.support import DTYPES, answers, assert_parity, cases, examples, normal


@pytest.mark.parametrize("dtype", DTYPES)
@examples(8)
@given(case=cases("embedding"))
def test_parity(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


def test_rows_are_taken_as_they_are() -> None:
    weight, ids = normal(0, 7, 4), np.array([[6, 0, 3], [3, 3, 1]])
    for output, _ in answers("embedding", {"weight": weight}, {"token_ids": ids}).values():
        np.testing.assert_array_equal(output, weight[ids])


def test_gradients_of_a_repeated_id_add_up() -> None:
    weight, ids = normal(0, 4, 2), np.array([2, 0, 2, 2])
    for _, gradients in answers("embedding", {"weight": weight}, {"token_ids": ids}).values():
        np.testing.assert_array_equal(gradients["weight"], [[1, 1], [0, 0], [3, 3], [0, 0]])
