"""Parity of scaled_dot_product_attention, and laws of it and of masks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jax_impl.masks
import torch_impl.masks
from lm.budgets import Dtype
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

LAYER = "scaled_dot_product_attention"


@pytest.mark.parametrize("dtype", DTYPES)
@examples(8)
@given(case=cases(LAYER))
def test_parity(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@examples(8)
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([30.0, 100.0]))
def test_parity_of_scores_that_spread_far(seed: int, spread: float, dtype: Dtype) -> None:
    """Beyond a spread of 10 the bound is epsilon times the measured condition number."""
    assert_parity(Case(LAYER, (7, 9, 8, 5), seed, mask="full", spread=spread), dtype)


def qkv(T: int = 5, S: int = 6) -> Arrays:
    """Draw queries, keys and values of two heads."""
    return {"Q": normal(0, 2, T, 4), "K": normal(1, 2, S, 4), "V": normal(2, 2, S, 3)}


def test_is_causal_by_gradient() -> None:
    """Under the causal mask the output at t has exactly zero gradient with respect to every key and value after t."""
    T, t = 6, 2
    cotangent = np.zeros((2, T, 3))
    cotangent[:, t] = normal(3, 2, 3)
    mask = {"mask": oracle.causal_mask(T)}
    for _, gradients in answers(LAYER, qkv(T, T), mask, cotangent).values():
        for name in ("K", "V"):
            assert not gradients[name][:, t + 1 :].any()
            assert gradients[name][:, : t + 1].all()
        assert not np.delete(gradients["Q"], t, axis=1).any()


def test_causal_mask() -> None:
    expected = np.array([[True, False, False], [True, True, False], [True, True, True]])
    np.testing.assert_array_equal(torch_impl.masks.causal_mask(3).pairs(3), expected)
    np.testing.assert_array_equal(jax_impl.masks.causal_mask(3).pairs(3), expected)


def test_equal_scores_average_the_values() -> None:
    arrays = qkv() | {"Q": np.zeros((2, 5, 4))}
    for output in outputs(LAYER, arrays).values():
        assert_close(output, arrays["V"].mean(1, keepdims=True))


def test_is_scaled_by_the_root_of_the_key_size() -> None:
    """The keys' products with the query differ by 2 * 2 ln 2; after division by sqrt(4) their weights are 4 : 1."""
    arrays = {"Q": np.array([[4 * np.log(2), 0, 0, 0]]), "K": np.eye(4)[:2], "V": np.array([[5.0], [0.0]])}
    for output in outputs(LAYER, arrays).values():
        assert_close(output, [[4.0]])


def test_order_of_keys_does_not_matter() -> None:
    arrays, order = qkv(), np.array([3, 0, 5, 1, 4, 2])
    moved = outputs(LAYER, arrays | {name: arrays[name][:, order] for name in "KV"})
    for name, output in outputs(LAYER, arrays).items():
        assert_close(output, moved[name])


def test_no_mask_is_a_mask_of_true() -> None:
    masked = answers(LAYER, qkv(), {"mask": np.ones((5, 6), bool)})
    for name, (output, gradients) in answers(LAYER, qkv()).items():
        assert_close(output, masked[name][0])
        for key in gradients:
            assert_close(gradients[key], masked[name][1][key], kind="gradient")


def test_masks_broadcast_over_heads_and_batch() -> None:
    arrays = {"QKV"[i]: normal(i, 3, 2, *size) for i, size in enumerate([(4, 5), (6, 5), (6, 2)])}
    mask = np.random.default_rng(0).random((3, 1, 4, 6)) < 0.7
    expected = oracle.scaled_dot_product_attention(arrays["Q"], arrays["K"], arrays["V"], mask)
    for output in outputs(LAYER, arrays, {"mask": mask}).values():
        assert_close(output, expected)


def test_a_query_that_may_see_nothing_yields_zeros_and_zero_gradients() -> None:
    mask = np.ones((5, 6), bool)
    mask[2] = False
    for output, gradients in answers(LAYER, qkv(), {"mask": mask}).values():
        assert not output[:, 2].any()
        assert not gradients["Q"][:, 2].any()
        assert output[:, [0, 1, 3, 4]].all()
        assert all(np.isfinite(g).all() for g in gradients.values())
    for output, gradients in answers(LAYER, qkv(), {"mask": np.zeros((5, 6), bool)}).values():
        assert not output.any()
        assert not any(g.any() for g in gradients.values())


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_keys_and_values_that_no_query_may_see_do_not_leak(poison: float) -> None:
    mask = np.ones((5, 6), bool)
    mask[:, 4] = False
    clean, dirty = qkv(), qkv()
    dirty["K"][:, 4], dirty["V"][:, 4] = poison, poison
    expected = answers(LAYER, clean, {"mask": mask})
    for name, (output, gradients) in answers(LAYER, dirty, {"mask": mask}, np.ones((2, 5, 3))).items():
        np.testing.assert_array_equal(output, expected[name][0])
        for key in gradients:
            np.testing.assert_array_equal(gradients[key], expected[name][1][key])
        assert not gradients["K"][:, 4].any()
        assert not gradients["V"][:, 4].any()


def test_bfloat16_scores_are_summed_in_float32() -> None:
    """256 + 0.5 is no bfloat16 number: rounded, both keys would have the same score."""
    arrays = {"Q": np.array([[16.0, 0.5]]), "K": np.array([[16.0, 1.0], [16.0, 0.0]]), "V": np.eye(2)}
    for output in outputs(LAYER, arrays, dtype="bfloat16").values():
        assert_close(
            output,
            oracle.scaled_dot_product_attention(arrays["Q"], arrays["K"], arrays["V"], None),
            "bfloat16",
        )


def test_a_mask_is_not_a_large_negative_number() -> None:
    """Scores near -1e9 keep their values. An additive mask of -1e9 would let masked keys in."""
    arrays = {"Q": np.full((1, 4), -3e4), "K": np.full((3, 4), 3e4), "V": np.array([[1.0], [2.0], [50.0]])}
    for output in outputs(LAYER, arrays, {"mask": np.array([[True, True, False]])}).values():
        assert_close(output, [[1.5]])
