"""Parity and laws of embedding."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from lm.budgets import Dtype
from parity.case import Case
from parity.draws import model_weights
from tests.parity.support import (
    DTYPES,
    answers,
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
@given(case=cases("embedding"))
def test_parity(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


def test_rows_are_taken_as_they_are() -> None:
    weight, ids = normal(0, 7, 4), np.array([[6, 0, 3], [3, 3, 1]])
    for output in outputs("embedding", {"weight": weight}, {"token_ids": ids}).values():
        np.testing.assert_array_equal(output, weight[ids])


@pytest.mark.parametrize("position", ["learned", "sinusoidal"])
def test_tokens_are_scaled_and_positions_are_not(position: str) -> None:
    """The embeddings of tokens times sqrt(d_model) are those of a model with a larger table."""
    config, rng = model({"position": position, "scale_embeddings": True}, layers=1), np.random.default_rng(0)
    weights, ids = model_weights(rng, config), rng.integers(0, 11, (2, 6))
    name = "token_embeddings.weight"
    larger = weights | {name: weights[name] * config.d_model**0.5}
    expected = logits(replace(config, scale_embeddings=False), larger, ids)
    for backend, found in logits(config, weights, ids).items():
        assert_close(found, expected[backend], "float64", "model_forward")


def test_gradients_of_a_repeated_id_add_up() -> None:
    weight, ids = normal(0, 4, 2), np.array([2, 0, 2, 2])
    for _, gradients in answers("embedding", {"weight": weight}, {"token_ids": ids}).values():
        np.testing.assert_array_equal(gradients["weight"], [[1, 1], [0, 0], [3, 3], [0, 0]])
