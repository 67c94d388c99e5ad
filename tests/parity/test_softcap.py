"""Parity and laws of softcap, and of the caps of scores and logits."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from lm.budgets import Dtype, as_dtype
from parity import oracle
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

CAPPED = "scaled_dot_product_attention with a cap"


@pytest.mark.parametrize("dtype", DTYPES)
@examples(6)
@given(case=cases("softcap"))
def test_parity(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@examples(3)
@given(case=cases(CAPPED))
def test_parity_of_scores_with_a_cap(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


def test_is_odd_bounded_and_the_identity_near_zero() -> None:
    """A huge input meets the cap, and passes no gradient."""
    x = np.array([1e-3, 0.5, 1e6])
    minus = answers("softcap", {"x": -x}, cap=2.0)
    for name, (output, gradients) in answers("softcap", {"x": x}, cap=2.0).items():
        np.testing.assert_array_equal(output, -minus[name][0])
        assert output[2] == 2.0
        assert gradients["x"][2] == 0.0
        assert_close(output[:1], x[:1])
        assert_close(output[1:2], 2 * np.tanh(0.25))


def test_bfloat16_is_computed_in_float32() -> None:
    """Only the result is rounded."""
    x = as_dtype(3 * normal(1, 64), "bfloat16")
    for output in outputs("softcap", {"x": x}, dtype="bfloat16", cap=2.0).values():
        np.testing.assert_array_equal(output, as_dtype(oracle.softcap(x, 2.0), "bfloat16"))


def test_scores_are_capped_after_the_scale_and_before_the_mask() -> None:
    """With a cap of c, no weight is more than exp(2 c) times another, and a masked key has no weight at all."""
    q, cap = 100 * normal(0, 1, 4), 0.5
    arrays = {"Q": q, "K": np.stack([q[0], -q[0], q[0]]), "V": np.eye(3)}
    mask = {"mask": np.array([[True, True, False]])}
    for output in outputs(CAPPED, arrays, mask, dtype="float64", cap=cap).values():
        assert output[0, 2] == 0.0
        assert_close(output[0, 0] / output[0, 1], np.exp(2 * cap), "float64")


def options(name: str, cap: float) -> dict[str, Any]:
    """Return this cap as keywords of ModelConfig."""
    return {name: cap}


@pytest.mark.parametrize("name", ["score_softcap", "logit_softcap"])
def test_a_huge_cap_is_no_cap(name: str) -> None:
    """tanh(u) is u to 1 part in 1e13 for u below 1e-6, and so a cap above 1e6 times the scores changes nothing."""
    config, rng = model({}, layers=1), np.random.default_rng(0)
    weights, ids = model_weights(rng, config), rng.integers(0, 11, (2, 6))
    expected = logits(config, weights, ids)
    for backend, found in logits(replace(config, **options(name, 1e8)), weights, ids).items():
        assert_close(found, expected[backend], "float64", "model_forward")
    for backend, found in logits(replace(config, **options(name, 0.5)), weights, ids).items():
        assert np.abs(found - expected[backend]).max() > 0.01


def test_logits_lie_between_the_caps() -> None:
    config, rng = model({"logit_softcap": 0.25}, layers=1), np.random.default_rng(0)
    weights, ids = model_weights(rng, config), rng.integers(0, 11, (2, 6))
    uncapped = logits(replace(config, logit_softcap=None), weights, ids)
    for backend, found in logits(config, weights, ids).items():
        assert np.abs(found).max() < 0.25
        assert_close(found, oracle.softcap(uncapped[backend], 0.25), "float64", "model_forward")
