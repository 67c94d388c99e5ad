"""Which token comes next, against a plain oracle; and the same text from both backends."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.backend import load
from lm.config import ModelConfig, TrainConfig
from lm.generate import SamplingConfig, choose_token, generate, next_token_probabilities
from tokenizer import InputError

LOGITS = st.lists(st.integers(-8, 8), min_size=1, max_size=12).map(lambda x: np.array(x, float) / 2)


def nucleus(logits: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    """The oracle: add the likeliest tokens, the smaller id first, until they reach top_p."""
    p = np.exp(logits / temperature)
    p /= p.sum()
    kept: list[int] = []
    while sum(p[i] for i in kept) < top_p and len(kept) < len(p):
        kept.append(max((i for i in range(len(p)) if i not in kept), key=lambda i: (p[i], -i)))
    truncated = np.array([p[i] if i in kept else 0.0 for i in range(len(p))])
    return truncated / truncated.sum()


@given(LOGITS, st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.05, 0.5, 0.9, 0.999]))
def test_the_nucleus(logits: np.ndarray, temperature: float, top_p: float) -> None:
    ours = next_token_probabilities(logits, temperature, top_p)
    np.testing.assert_allclose(ours, nucleus(logits, temperature, top_p), rtol=1e-12)


@given(LOGITS)
def test_temperature_0_takes_the_first_likeliest(logits: np.ndarray) -> None:
    p = next_token_probabilities(logits, 0.0, 1.0)
    assert p.sum() == 1
    assert p[list(logits).index(max(logits))] == 1


@given(LOGITS, st.integers(0, 100))
def test_a_shift_of_the_logits_changes_nothing(logits: np.ndarray, shift: int) -> None:
    # Shifts by whole numbers are exact.
    a, b = (next_token_probabilities(x, 1.0, 1.0) for x in (logits, logits + shift))
    np.testing.assert_array_equal(a, b)


def test_draws_follow_the_probabilities() -> None:
    p = np.array([0.5, 0.0, 0.2, 0.3, 0.0])
    draws = [choose_token(p, seed=0, sample=0, position=i) for i in range(10_000)]
    counts = np.bincount(draws, minlength=5)
    assert counts[1] == counts[4] == 0
    expected = 10_000 * p[p > 0]
    # Chi-square with 2 degrees of freedom: 13.8 is the 99.9th percentile.
    assert ((counts[p > 0] - expected) ** 2 / expected).sum() < 13.8


def test_a_draw_depends_on_seed_sample_and_position() -> None:
    p = np.full(1000, 1e-3)
    draws = {(s, i, t): choose_token(p, s, i, t) for s, i, t in itertools.product(range(5), repeat=3)}
    assert draws == {key: choose_token(p, *key) for key in draws}
    assert len(set(draws.values())) > 100


@pytest.mark.parametrize(
    "bad",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.5}, {"seed": -1}],
)
def test_settings_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(bad))} is"):
        SamplingConfig(**bad)  # type: ignore[arg-type]


CONFIG = TrainConfig(ModelConfig(32, 8, 16, 2, 2), compute_dtype="float64")


def tokens_of(backend_name: str, prompt: list[int], sampling: SamplingConfig, stop: int | None) -> list[int]:
    backend = load(backend_name, CONFIG)  # type: ignore[arg-type]
    steps = backend.make_prefill(CONFIG), backend.make_decode_step(CONFIG)
    return list(generate(*steps, backend.init_state(CONFIG, 0), CONFIG, prompt, sampling, stop))


@pytest.mark.parametrize("prompt", [[3], [1, 2, 3, 4, 5, 6, 7, 8]])
def test_both_backends_write_the_same(prompt: list[int]) -> None:
    # Far beyond the context of 8, so that the cache slides around more than once.
    sampling = SamplingConfig(max_new_tokens=30, seed=1)
    torch, jax = (tokens_of(name, prompt, sampling, None) for name in ("torch", "jax"))
    assert torch == jax
    assert len(torch) == 30
    stop = torch[7]
    assert tokens_of("torch", prompt, sampling, stop) == torch[: torch.index(stop)]


@pytest.mark.parametrize("prompt", [[], [0] * 9])
def test_a_prompt_must_fit_the_context(prompt: list[int]) -> None:
    with pytest.raises(InputError, match=f"the prompt has {len(prompt)} tokens; give from 1 to .* 8"):
        tokens_of("torch", prompt, SamplingConfig(), None)


@pytest.mark.parametrize("backend_name", ["torch", "jax"])
def test_within_the_context_the_cache_changes_nothing(backend_name: str) -> None:
    backend = load(backend_name, CONFIG)  # type: ignore[arg-type]
    prefill, decode_step = backend.make_prefill(CONFIG), backend.make_decode_step(CONFIG)
    state = backend.init_state(CONFIG, 0)
    ids = np.arange(16, dtype=np.int32).reshape(2, 8)
    # Two prompts of different lengths in one batch, padded with what must not be seen.
    lengths = np.array([2, 5])
    logits, cache = prefill(state, ids, lengths)
    for _ in range(3):
        logits, cache = decode_step(state, cache, ids[[0, 1], lengths], lengths)
        lengths = lengths + 1
        whole, _ = prefill(state, ids, lengths)
        np.testing.assert_allclose(logits, whole, rtol=1e-12)
