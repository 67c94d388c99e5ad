"""Tests of the measures of error, and of the oracle."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm.budgets import BUDGETS, EPSILON, SMALLEST_NORMAL, Dtype, as_dtype, relative_error, ulps
from lm.config import ModelConfig
from parity import oracle
from parity.case import MASKS, POSITIONS, SCALES, Case
from parity.layers import LAYERS
from parity.oracle.attention import norm_heads, stretched_rope
from parity.oracle.model import rope_stretch
from parity.problem import Problem
from tests.parity.support import examples, normal


def test_the_table_is_the_published_one() -> None:
    assert BUDGETS == {
        "float64": (1e-13, 1e-12, 1e-12, 1e-11),
        "float32": (1e-6, 2e-6, 5e-6, 2e-5),
        "bfloat16": (8e-3, 2e-2, 2e-2, 5e-2),
    }


def test_relative_error() -> None:
    assert relative_error(np.array([3.0, 4.5]), np.array([3.0, 4.0])) == 0.1
    assert relative_error(np.zeros(2), np.zeros(2)) == 0
    assert relative_error(np.ones(1), np.zeros(1)) == np.inf
    assert relative_error(np.array([np.nan]), np.ones(1)) == np.inf
    assert relative_error(np.ones(2), np.ones(3)) == np.inf


def test_a_gradient_that_is_zero_is_judged_by_what_flowed_in() -> None:
    assert relative_error(np.full(1, 1e-17), np.full(1, 1e-18), flow=10.0) == pytest.approx(9e-19)
    assert relative_error(np.full(1, 2e-3), np.full(1, 1e-3), flow=10.0) == 1
    # Two gradients are both rounding errors; a third, exact one says that they are zero.
    a, b = np.full(1, 2e-7), np.full(1, -1e-7)
    assert relative_error(a, b, flow=10.0) == pytest.approx(3)
    assert relative_error(a, b, flow=10.0, exact=np.zeros(1)) == pytest.approx(3e-8)


def test_ulps() -> None:
    ones = np.ones(3)
    assert ulps(ones * (1 + 3 * 2.0**-23), ones, "float32") == 3
    assert ulps(ones * 2 * (1 + 3 * 2.0**-52), ones * 2, "float64") == 3
    assert ulps(np.array([1e-40]), np.zeros(1), "float32") == 0
    assert ulps(np.array([np.nan]), np.zeros(1), "float32") == np.inf


@given(st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False))
def test_rounding_to_bfloat16_is_torchs(x: float) -> None:
    import torch

    assert float(as_dtype(np.array(x), "bfloat16")) == float(torch.tensor(x).bfloat16())


@examples(30)
@given(st.sampled_from(list(LAYERS)), st.integers(0, 2**32 - 1), st.sampled_from(SCALES), st.data())
def test_the_complex_step_is_the_derivative(layer: str, seed: int, scale: float, data: st.DataObject) -> None:
    """Along a random direction it agrees with the central difference, to the accuracy of that difference."""
    case = Case(
        layer,
        data.draw(st.sampled_from(LAYERS[layer].shapes)),
        seed,
        scale,
        data.draw(st.sampled_from(MASKS)),
        data.draw(st.sampled_from(POSITIONS)),
    )
    problem = Problem(case, "float64")
    if not problem.gradients:
        return
    rng, h = np.random.default_rng(seed), 1e-5
    direction = {name: rng.standard_normal(a.shape) for name, a in problem.given.arrays.items()}

    def value(step: float) -> float:
        arrays = {name: a + step * direction[name] for name, a in problem.given.arrays.items()}
        return float(np.sum(problem.cotangent * LAYERS[layer].oracle(problem.given._replace(arrays=arrays))))

    slope = sum(float(np.sum(problem.gradients[name] * d)) for name, d in direction.items())
    size = sum(float(np.linalg.norm(problem.gradients[n]) * np.linalg.norm(d)) for n, d in direction.items())
    assert abs((value(h) - value(-h)) / (2 * h) - slope) <= 1e-6 * max(size, abs(value(0)))


def spreads(case: Case, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return how far the attention scores of a case spread, layer by layer."""
    found: list[float] = []
    scores_of = oracle.attention_scores

    def record(Q: np.ndarray, K: np.ndarray) -> np.ndarray:
        scores = scores_of(Q, K)
        found.append(float(np.ptp(scores.real, axis=-1).max()))
        return scores

    monkeypatch.setattr("parity.oracle.attention.attention_scores", record)
    Problem(case, "float64")
    monkeypatch.undo()
    return found


@pytest.mark.parametrize(
    "layer",
    [
        "multihead_self_attention",
        "multihead_self_attention of groups",
        "multihead_self_attention with a d_head",
        "transformer_block",
        "transformer_lm",
        "transformer_lm of the family",
    ],
)
def test_scores_of_drawn_cases_spread_as_the_table_asks(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores rarely spread by more than 10, and never by much more."""
    found = [
        max(spreads(Case(layer, shape, seed), monkeypatch))
        for shape in LAYERS[layer].shapes
        for seed in range(50)
    ]
    assert np.mean(np.array(found) > 10) < 0.1
    assert max(found) < 20


@pytest.mark.parametrize("spread", [30.0, 100.0])
def test_beyond_the_spread_conditioning_takes_over(spread: float) -> None:
    """At a spread of 100, one rounding of the inputs alone moves a float32 query gradient by more than its budget."""
    dtype: Dtype = "float32"
    case = Case("scaled_dot_product_attention", (7, 9, 8, 5), 0, mask="full", spread=spread)
    problem = Problem(case, dtype)
    scores = oracle.attention_scores(problem.given.arrays["Q"], problem.given.arrays["K"])
    assert np.ptp(scores, axis=-1).max() == pytest.approx(spread)
    assert problem.bound("Q") >= BUDGETS[dtype].gradient
    assert 1 < problem.condition("Q") < 1e6


def test_the_oracle_on_numbers_worked_by_hand() -> None:
    np.testing.assert_allclose(oracle.softmax(np.log([1.0, 2.0, 5.0]), -1), [1 / 8, 2 / 8, 5 / 8])
    np.testing.assert_allclose(oracle.silu(np.array([0.0, np.log(3)])), [0, 0.75 * np.log(3)])
    np.testing.assert_allclose(oracle.gelu(np.array([0.0, 1.0])), [0, 0.841344746068543])
    np.testing.assert_allclose(
        oracle.layernorm(np.array([1.0, 3.0]), np.array([1.0, 2.0]), np.array([0.5, 0.0]), 0.0), [-0.5, 2]
    )
    np.testing.assert_allclose(oracle.sinusoids(3, np.array([0, 1]))[:, 1], [1, np.cos(1)])
    np.testing.assert_allclose(
        oracle.token_cross_entropy(np.log([[1.0, 3.0]]), np.array([1])), [np.log(4 / 3)]
    )
    np.testing.assert_allclose(
        oracle.rmsnorm(np.array([3.0, 4.0]), np.array([1.0, 2.0]), 0.0), [3 / 12.5**0.5, 8 / 12.5**0.5]
    )
    np.testing.assert_allclose(
        oracle.rope(np.array([[1.0, 0.0]]), np.array([1]), 1e4), [[np.cos(1), np.sin(1)]]
    )
    np.testing.assert_array_equal(oracle.linear(np.array([1.0, 2.0]), np.array([[3.0, 4.0]])), [11])
    assert oracle.clip_gradients({"a": np.array([3.0, 4.0])}, 1.0)[1] == 5
    adamw = oracle.AdamW((0.9, 0.999), 0.0, 0.0)
    first = adamw.step({"w": np.ones(1)}, {"w": np.full(1, -7.0)}, 0.1)
    np.testing.assert_allclose(first["w"], 1.1)


@pytest.mark.parametrize("options", [{}, {"score_dim": 5.0}, {"cap": 0.7}, {"cap": 0.7, "score_dim": 5.0}])
def test_attention_of_the_oracle_agrees_with_a_loop(options: dict[str, float]) -> None:
    """The loop takes a query at a time and a key at a time, as one would by hand."""
    Q, K, V = normal(0, 4, 3), normal(1, 5, 3), normal(2, 5, 2)
    mask = np.random.default_rng(0).random((4, 5)) < 0.5
    cap, expected = options.get("cap"), np.zeros((4, 2))
    for t in range(4):
        scores = {s: Q[t] @ K[s] / options.get("score_dim", 3.0) ** 0.5 for s in range(5) if mask[t, s]}
        weights = {s: math.exp(cap * math.tanh(x / cap) if cap else x) for s, x in scores.items()}
        for s, weight in weights.items():
            expected[t] += weight / sum(weights.values()) * V[s]
    np.testing.assert_allclose(oracle.scaled_dot_product_attention(Q, K, V, mask, **options), expected)


def test_options_of_the_oracle_on_numbers_worked_by_hand() -> None:
    """A norm over two heads, a window, and RoPE that is stretched twofold in its second pair alone."""
    np.testing.assert_allclose(oracle.relu2(np.array([-3.0, 0.0, 3.0])), [0, 0, 9])
    np.testing.assert_allclose(oracle.softcap(np.array([0.0, 2 * math.atanh(0.5)]), 2.0), [0, 1])
    heads = norm_heads([np.array([1.0, 7.0]), np.array([5.0, 5.0])], np.array([1.0, 2.0, 3.0, 4.0]), 0.0)
    np.testing.assert_allclose(np.concatenate(heads), np.array([1, 14, 15, 20]) / 5)
    np.testing.assert_array_equal(
        oracle.window_mask(4, 2), [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    )
    x, positions = np.array([[1.0, 0.0, 1.0, 0.0]]), np.array([6])
    turned = stretched_rope(x, positions, 100.0, [1.0, 2.0])
    np.testing.assert_allclose(turned, [[math.cos(6), math.sin(6), math.cos(0.3), math.sin(0.3)]])
    config = ModelConfig(1, 8, 6, 1, 1, rope_theta=1000.0, rope_scaling="llama3", rope_factor=8.0)
    # The second pair fits 200 / 62.8 = 3.18 times into the context, of 1 to 4: 0.728 of it stays.
    stretch = rope_stretch(replace(config, rope_original_context=200))
    share = (100 / math.pi / 10 - 1) / 3
    np.testing.assert_allclose(np.array(stretch), np.array([1, 1 / (share + (1 - share) / 8), 8]))


@pytest.mark.parametrize("dtype", BUDGETS)
def test_the_types_are_those_of_torch(dtype: Dtype) -> None:
    info = torch.finfo(getattr(torch, dtype))
    assert (EPSILON[dtype], SMALLEST_NORMAL[dtype]) == (info.eps, info.smallest_normal)
