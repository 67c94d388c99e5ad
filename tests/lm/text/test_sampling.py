"""The choice of the next token: each rule against a simple oracle, and the distribution of the draws."""

import itertools
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.rng import philox, uniform
from lm.text.sampling import (
    MARGIN,
    SamplingConfig,
    choose_token,
    next_token_probabilities,
    penalize_repetition,
)
from tokenizer import InputError

# Multiples of one half, so that ties are common and shifts are exact.
LOGITS = st.lists(st.integers(-8, 8), min_size=1, max_size=12).map(lambda x: np.array(x, float) / 2)
TEMPERATURES = st.sampled_from([0.5, 1.0, 2.0])


def oracle(logits: np.ndarray, c: SamplingConfig) -> np.ndarray:
    """Apply the rules in turn to a list of ids, the likeliest first, and the smaller id first among equals."""
    p = np.exp(logits / c.temperature)
    kept = sorted(range(len(p)), key=lambda i: (-p[i], i))[: c.top_k]
    total = sum(p[i] for i in kept)
    reached = 0.0
    for n, i in enumerate(kept):
        if reached >= c.top_p * total:
            kept = kept[:n]
            break
        reached += p[i]
    kept = [i for i in kept if p[i] >= c.min_p * p[kept[0]]]
    chosen = np.array([p[i] if i in kept else 0.0 for i in range(len(p))])
    return chosen / chosen.sum()


@given(
    LOGITS,
    TEMPERATURES,
    st.sampled_from([None, 1, 2, 5, 100]),
    st.sampled_from([0.05, 0.5, 0.9, 0.999, 1.0]),
    st.sampled_from([0.0, 0.1, 0.7, 1.0]),
)
def test_the_rules_give_the_oracles_probabilities(
    logits: np.ndarray, temperature: float, top_k: int | None, top_p: float, min_p: float
) -> None:
    config = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    ours = next_token_probabilities(logits, config)
    np.testing.assert_allclose(ours, oracle(logits, config), rtol=1e-12)


def test_the_smaller_id_wins_ties_and_a_nucleus_may_be_everything() -> None:
    flat = np.zeros(4)
    # Among equals the smaller ids are kept: top-k keeps k, and half of the probability keeps two of four.
    for config in (SamplingConfig(top_k=2), SamplingConfig(top_p=0.5)):
        assert next_token_probabilities(flat, config).tolist() == [0.5, 0.5, 0, 0]
    unlikely = np.array([0.0, -40.0])
    assert next_token_probabilities(unlikely, SamplingConfig(top_p=1.0))[1] > 0
    # top-p sorts only a part of the vocabulary, but here it needs all tokens.
    assert np.count_nonzero(next_token_probabilities(np.zeros(1000), SamplingConfig(top_p=0.9995))) == 1000


@given(LOGITS, st.lists(st.integers(0, 3), min_size=1), st.sampled_from([0.5, 1.0, 1.5]))
def test_the_repetition_penalty_makes_previous_tokens_less_likely(
    logits: np.ndarray, previous: list[int], penalty: float
) -> None:
    logits = np.concatenate([logits, np.arange(-2.0, 2.0)])
    expected = [
        x if i not in previous else x / penalty if x > 0 else x * penalty
        for i, x in enumerate(logits.tolist())
    ]
    before = logits.copy()
    assert penalize_repetition(logits, previous, penalty).tolist() == expected
    np.testing.assert_array_equal(logits, before)


@given(LOGITS)
def test_temperature_0_takes_the_first_of_the_likeliest(logits: np.ndarray) -> None:
    choice = choose_token(logits, [0], SamplingConfig(temperature=0.0), 0)
    assert choice.token == logits.tolist().index(logits.max())
    others = np.delete(logits, choice.token)
    assert choice.gap == (logits.max() - others.max() if len(others) else np.inf)


@given(LOGITS, st.integers(0, 100))
def test_a_shift_of_the_logits_changes_nothing(logits: np.ndarray, shift: int) -> None:
    a, b = (next_token_probabilities(x, SamplingConfig()) for x in (logits, logits + shift))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "config", [SamplingConfig(temperature=0.7), SamplingConfig(top_k=3, min_p=0.1), SamplingConfig(top_p=0.8)]
)
def test_draws_follow_the_probabilities(config: SamplingConfig) -> None:
    logits = np.array([1.0, -3.0, 0.2, 0.5, -0.5])
    p = next_token_probabilities(logits, config)
    draws = [choose_token(logits, range(t), config, sample=0).token for t in range(3_000)]
    counts = np.bincount(draws, minlength=5)
    assert not counts[p == 0].any()
    expected = 3_000 * p[p > 0]
    # The 99.9th percentile of chi-square with 4, 3 or 2 degrees of freedom.
    limit = {5: 18.5, 4: 16.3, 3: 13.8}[len(expected)]
    assert ((counts[p > 0] - expected) ** 2 / expected).sum() < limit


@given(LOGITS, TEMPERATURES, st.integers(0, 1000), st.sampled_from([0.1, 30.0]))
def test_excluding_tokens_that_cannot_win_changes_nothing(
    logits: np.ndarray, temperature: float, position: int, spread: float
) -> None:
    """The winner, and a runner-up close to it, are those of all scores, although most scores are never computed.

    If logits hardly differ, the loudest tokens decide. Otherwise, the likeliest tokens decide.
    """
    logits = np.concatenate([logits * spread / 30, np.linspace(-spread, 0, 100)])
    config = SamplingConfig(temperature=temperature, seed=3)
    choice = choose_token(logits, range(position), config, 0)
    u = uniform(philox(3, "sample/0", position).random_raw(len(logits)))
    scores = logits / temperature - np.log(-np.log(u))
    second, first = np.argsort(scores)[-2:]
    gap = scores[first] - scores[second]
    assert choice.token == first
    if gap < MARGIN:
        assert choice.runner_up == second
        assert choice.gap == pytest.approx(gap * temperature, abs=1e-12)
    else:
        assert choice.gap > MARGIN * temperature


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(
    LOGITS,
    st.sampled_from([5e-324, 1e-310, 1e-45, 1e-20, 1e-9, 1.0, 1e300, sys.float_info.max]),
    st.sampled_from([5e-324, 1e-46, 1.0, 1e39, sys.float_info.max]),
    st.integers(0, 1000),
)
def test_no_temperature_or_penalty_is_too_small_or_large(
    dtype: type, logits: np.ndarray, temperature: float, penalty: float, position: int
) -> None:
    """At any temperature, the noise decides among equal logits, and both ways to find contenders agree."""
    logits = np.concatenate([logits, logits]).astype(dtype)
    previous = [1] * position
    config = SamplingConfig(temperature=temperature, repetition_penalty=penalty, seed=3)
    choice = choose_token(logits, previous, config, 0)
    assert choice.token == choose_token(logits, previous, replace(config, top_k=99), 0).token
    penalized = penalize_repetition(logits, previous, penalty)
    assert np.isfinite(penalized).all()
    noise = -np.log(-np.log(uniform(philox(3, "sample/0", position).random_raw(len(logits)))))
    if temperature < 1e-4:
        equals = np.flatnonzero(penalized == penalized.max())
        assert choice.token == equals[noise[equals].argmax()]
    if temperature > 1e200 and penalty == 1:
        assert choice.token == noise.argmax()


@given(LOGITS, TEMPERATURES | st.just(0.0), st.integers(0, 100), st.data())
def test_a_token_that_may_not_be_drawn_never_is(
    logits: np.ndarray, temperature: float, position: int, data: st.DataObject
) -> None:
    drawable = np.array(data.draw(st.permutations([True] + [data.draw(st.booleans()) for _ in logits[1:]])))
    rules = data.draw(st.sampled_from([{}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.5}]))
    config = SamplingConfig(temperature=temperature, repetition_penalty=2.0, **rules)  # type: ignore[arg-type]
    previous = [0] * position
    choice = choose_token(logits, previous, config, 0, drawable=drawable)
    assert drawable[choice.token]
    assert choice.gap == np.inf or drawable[choice.runner_up]
    # The choice is the one among the drawable tokens alone.
    hidden = np.where(drawable, logits, -1e9)
    assert choice.token == choose_token(hidden, previous, config, 0).token
    everything = np.ones(len(logits), bool)
    assert choose_token(logits, previous, config, 0, drawable=everything) == choose_token(
        logits, previous, config, 0
    )


def test_a_draw_depends_on_seed_sample_and_position() -> None:
    flat = np.zeros(1000)
    keys = list(itertools.product(range(5), repeat=3))

    def draw(seed: int, sample: int, position: int) -> int:
        return choose_token(flat, range(position), SamplingConfig(seed=seed), sample).token

    draws = {key: draw(*key) for key in keys}
    assert draws == {key: draw(*key) for key in keys}
    assert len(set(draws.values())) > 100


def test_the_choice_changes_when_the_runner_up_gains_the_gap() -> None:
    logits = np.array([0.3, 0.1, -0.2, 0.0])
    for temperature in (0.0, 0.5, 1.0):
        config = SamplingConfig(temperature=temperature)
        for position in range(50):
            token, runner_up, gap = choose_token(logits, range(position), config, 0)
            if gap > MARGIN * temperature > 0:
                continue
            for part, expected in ((0.99, token), (1.01, runner_up)):
                nearer = logits.copy()
                nearer[runner_up] += part * gap
                assert choose_token(nearer, range(position), config, 0).token == expected


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": 0},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_p": float("nan")},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"min_p": float("nan")},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": float("nan")},
        {"repetition_penalty": float("inf")},
        {"stop": ("",)},
        {"samples": 0},
        {"max_new_tokens": 0},
        {"max_new_tokens": -1},
        {"seed": -1},
        {"seed": 2**64},
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(bad))} is"):
        SamplingConfig(**bad)  # type: ignore[arg-type]
