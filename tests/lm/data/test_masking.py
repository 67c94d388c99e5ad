"""Masked-token batches: BERT's rule, determinism, padding."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.config import ModelConfig, TrainConfig
from lm.data.batch import Batch
from lm.data.masking import mask_tokens, masked_batch, masked_eval_batches
from lm.data.windows import Corpus, get_batch
from lm.rng import philox
from tokenizer import InputError

MODEL = ModelConfig(
    vocab_size=50, context_length=16, d_model=8, num_layers=1, num_heads=2, architecture="encoder"
)
CONFIG = TrainConfig(MODEL, batch_size=8, mask_token=49)
TOKENS = np.random.default_rng(0).integers(0, 40, 1000).astype(np.uint16)
CORPUS = Corpus((TOKENS,), (1.0,))


@given(
    num_tokens=st.lists(st.integers(0, 16), min_size=1, max_size=5),
    rate=st.sampled_from([0.01, 0.15, 0.5, 0.99]),
    seed=st.integers(0, 2**64 - 1),
)
def test_the_mask_rate_of_tokens_is_chosen_and_all_others_stay(
    num_tokens: list[int], rate: float, seed: int
) -> None:
    N = len(num_tokens)
    ids = np.arange(N * 16, dtype=np.int32).reshape(N, 16) % 40
    bits = philox(seed, "test").random_raw(N * 48).reshape(N, 3, 16)
    masked, chosen = mask_tokens(ids, np.array(num_tokens), bits, replace(CONFIG, mask_rate=rate))
    wanted = [min(n, max(1, round(rate * n))) for n in num_tokens]
    assert chosen.sum(-1).tolist() == wanted
    assert not chosen[np.arange(16) >= np.array(num_tokens)[:, None]].any()
    np.testing.assert_array_equal(masked[~chosen], ids[~chosen])


def test_80_percent_of_the_chosen_are_masked_10_are_random_and_10_stay() -> None:
    N, config = 4000, replace(CONFIG, mask_rate=0.5)
    ids = np.full((N, 16), 7, np.int32)
    bits = philox(0, "test").random_raw(N * 48).reshape(N, 3, 16)
    masked, chosen = mask_tokens(ids, np.full(N, 16), bits, config)
    found = masked[chosen]
    assert len(found) == N * 8
    # One random token in 50 is the mask token, and one in 50 is the original token.
    assert np.mean(found == 49) == pytest.approx(0.8 + 0.1 / 50, abs=0.01)
    assert np.mean(found == 7) == pytest.approx(0.1 + 0.1 / 50, abs=0.01)
    others = np.bincount(found, minlength=50)[np.setdiff1d(np.arange(50), [7, 49])]
    # Chi-square with 47 degrees of freedom: 82.7 is the 99.9th percentile.
    assert ((others - others.mean()) ** 2 / others.mean()).sum() < 82.7
    # All positions are chosen equally often. With 15 degrees of freedom, the 99.9th percentile is 37.7.
    places = chosen.sum(0)
    assert ((places - N / 2) ** 2 / (N / 2)).sum() < 37.7


@given(seed=st.integers(0, 100), step=st.integers(0, 1000))
def test_a_batch_is_a_function_of_seed_and_step(seed: int, step: int) -> None:
    config = replace(CONFIG, seed=seed)
    batch = masked_batch(CORPUS, config, step)
    again, split = (masked_batch(CORPUS, replace(config, grad_accumulation=a), step) for a in (1, 4))
    np.testing.assert_array_equal(batch.inputs, again.inputs)
    # Micro-batches divide the batch without changing it.
    for name in ("inputs", "targets", "loss_mask", "num_tokens"):
        whole, parts = getattr(batch, name), getattr(split, name)
        assert parts.shape[:2] == (4, 2)
        np.testing.assert_array_equal(whole.reshape(parts.shape), parts)
    assert (batch.inputs != masked_batch(CORPUS, config, step + 1).inputs).any()
    other = masked_batch(CORPUS, replace(config, seed=seed + 1), step)
    assert np.any(batch.loss_mask != other.loss_mask)


def test_targets_are_the_tokens_before_masking() -> None:
    batch = masked_batch(CORPUS, CONFIG, 3)
    np.testing.assert_array_equal(batch.targets, get_batch(CORPUS, 0, 3, 8, 16).inputs)
    assert batch.loss_mask is not None
    np.testing.assert_array_equal(batch.inputs[~batch.loss_mask], batch.targets[~batch.loss_mask])
    assert (batch.inputs != batch.targets).sum() > 8
    assert batch.num_targets == 8 * 2
    assert np.all(batch.num_tokens == 16)


def concatenate(batches: list[Batch], name: str) -> np.ndarray:
    return np.concatenate([getattr(b, name)[0] for b in batches])


@pytest.mark.parametrize("size", [1, 16, 17, 100, 1000])
def test_evaluation_reads_each_token_once_and_always_chooses_the_same_tokens(size: int) -> None:
    tokens = TOKENS[:size]
    found = []
    for config in (CONFIG, replace(CONFIG, batch_size=3, seed=5)):
        batches = list(masked_eval_batches(tokens, config))
        assert {b.inputs.shape for b in batches} == {(1, config.batch_size, 16)}
        num_tokens, targets = concatenate(batches, "num_tokens"), concatenate(batches, "targets")
        assert num_tokens.sum() == size
        is_token = np.arange(16) < num_tokens[:, None]
        np.testing.assert_array_equal(targets[is_token], tokens)
        assert not concatenate(batches, "loss_mask")[~is_token].any()
        real = num_tokens > 0
        found.append([concatenate(batches, name)[real] for name in ("inputs", "targets", "loss_mask")])
        assert (concatenate(batches, "loss_mask").sum(-1)[real] >= 1).all()
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_rate": 0.0}, "mask_rate is 0.0: give a number above 0"),
        ({"mask_rate": 1.0}, "mask_rate is 1.0: give a number above 0"),
        ({"mask_token": 50}, "mask_token is 50: an encoder needs one from 0 to"),
        ({"mask_token": -1}, "mask_token is -1: an encoder needs one from 0 to"),
        ({"model": replace(MODEL, architecture="decoder")}, "other architectures none"),
        ({"sample_every": 5}, "an encoder writes no text"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **change)  # type: ignore[arg-type]
