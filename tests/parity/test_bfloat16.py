"""Laws of a model that computes in bfloat16: what still holds exactly, or to float32's accuracy."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jax_impl.functional
import torch_impl.functional
from lm.backend import BackendName, DecodeStep, Prefill, load
from lm.budgets import BUDGETS, Dtype, as_dtype, relative_error
from lm.config import ModelConfig, TrainConfig
from lm.data.batch import Batch
from parity import oracle
from tests.parity.support import answers, assert_close, normal
from torch_impl.fast import grouped_query_attention

BACKENDS: tuple[BackendName, ...] = ("torch", "jax")
MODEL = ModelConfig(64, 16, 32, 2, 4, 32, num_kv_heads=2)
CONFIG = TrainConfig(MODEL, batch_size=4, compute_dtype="bfloat16")


@pytest.mark.parametrize("name", BACKENDS)
def test_decoding_is_as_exact_as_the_whole(name: BackendName) -> None:
    """Prompts of two lengths and the tokens after them agree with the float64 oracle."""
    backend, ids = load(name, CONFIG), np.random.default_rng(0).integers(0, 64, (2, 12))
    state, lengths = backend.init_state(CONFIG, 0), np.array([5, 8])
    weights = {key: array.astype(np.float64) for key, array in backend.read_weights(state)}
    whole = oracle.transformer_lm(weights, ids, MODEL)
    assert_close(backend.make_logits(CONFIG)(state, ids), whole, "bfloat16", "model_forward")
    logits, cache = backend.make_prefill(CONFIG)(state, ids[:, :8], lengths)
    assert_close(logits, whole[np.arange(2), lengths - 1], "bfloat16", "model_forward")
    decode = backend.make_decode_step(CONFIG)
    for step in range(4):
        positions = lengths + step
        logits, cache = decode(state, cache, ids[np.arange(2), positions], positions)
        assert_close(logits, whole[np.arange(2), positions], "bfloat16", "model_forward")


@pytest.mark.parametrize("name", BACKENDS)
def test_micro_batches_are_added_in_float32(name: BackendName) -> None:
    """Four equal micro-batches have the gradient of one. Sums in bfloat16 would round three times the gradient."""
    windows = np.random.default_rng(0).integers(0, 64, (1, 4, 17)).astype(np.int32)
    moments = []
    for count in (1, 4):
        config = replace(CONFIG, batch_size=4 * count, grad_accumulation=count)
        backend, w = load(name, config), np.repeat(windows, count, axis=0)
        batch = Batch(w[..., :-1], w[..., 1:])
        state, _ = backend.make_train_step(config)(backend.init_state(config, 0), batch, 1e-3)
        moments.append({key: array.copy() for key, array in backend.read_optimizer(state)})
    for key, array in moments[0].items():
        assert relative_error(moments[1][key], array) <= BUDGETS["float32"].gradient, key


def test_the_loss_of_bfloat16_logits_is_a_float32_loss() -> None:
    """The loss takes the logits as exact numbers, whatever their type."""
    logits = as_dtype(8 * normal(0, 6, 64), "bfloat16")
    targets = np.random.default_rng(0).integers(0, 64, 6)
    expected = np.log(np.exp(logits).sum(-1)) - logits[np.arange(6), targets]
    ours = torch_impl.functional.token_cross_entropy(
        torch.tensor(logits).bfloat16(), torch.tensor(targets)
    ).double()
    assert_close(ours.numpy(), expected, "float32")
    theirs = jax.jit(jax_impl.functional.token_cross_entropy)(jnp.asarray(logits, jnp.bfloat16), targets)
    assert_close(np.asarray(theirs, np.float64), expected, "float32")


@pytest.mark.parametrize(("dtype", "offset"), [("float32", 2.0), ("bfloat16", 8.0)])
def test_what_all_values_have_in_common_moves_no_weight(dtype: Dtype, offset: float) -> None:
    """A query's weights add up to 1, so a constant added to all values changes no gradient of queries and keys."""
    shape = (1, 2, 12, 8)
    arrays = {"Q": normal(0, *shape), "K": normal(1, *shape), "V": np.round(4 * normal(2, *shape)) / 4}
    arrays = {key: as_dtype(x, "bfloat16") for key, x in arrays.items()}
    cotangent, layer = as_dtype(normal(3, *shape), "bfloat16"), "scaled_dot_product_attention"
    raised = arrays | {"V": arrays["V"] + offset}
    assert np.array_equal(raised["V"], as_dtype(raised["V"], "bfloat16"))
    exact = answers(layer, arrays, cotangent=cotangent, dtype="float64")["jax"][1]
    for _, gradients in answers(layer, raised, cotangent=cotangent, dtype=dtype).values():
        for key in ("Q", "K"):
            assert_close(gradients[key], exact[key], dtype, "gradient")


@pytest.mark.parametrize("name", BACKENDS)
def test_nothing_holds_weights_that_were_trained_on(name: BackendName) -> None:
    """Functions made before training sample from the trained weights, as functions made after it do."""
    backend, ids, at = load(name, CONFIG), np.arange(8)[None, :] % 3, np.array([8])
    state, step = backend.init_state(CONFIG, 0), backend.make_train_step(CONFIG)

    def sampled(state: Any, prefill: Prefill, decode: DecodeStep) -> np.ndarray:
        first, cache = prefill(state, ids, at)
        second, _ = decode(state, cache, np.array([1]), at)
        return np.stack((first, second))

    made_before = backend.make_prefill(CONFIG), backend.make_decode_step(CONFIG)
    before = sampled(state, *made_before)
    state, _ = step(state, Batch(np.zeros((1, 4, 16), np.int32), np.ones((1, 4, 16), np.int32)), 1e-2)
    after = sampled(state, *made_before)
    assert np.array_equal(
        after, sampled(state, backend.make_prefill(CONFIG), backend.make_decode_step(CONFIG))
    )
    assert all(
        relative_error(a, b) > BUDGETS["bfloat16"].model_forward for a, b in zip(after, before, strict=True)
    )


def test_a_decoded_query_tells_scores_apart_that_bfloat16_rounds_to_one() -> None:
    """Scores 128 and 128.5 have the weights sigmoid(-0.5) and sigmoid(0.5)."""
    q = torch.tensor([[[[16.0, 1.0, 0.0, 0.0]]]]).bfloat16()
    k = torch.tensor([[[[16.0, 0.0, 0.0, 0.0], [16.0, 1.0, 0.0, 0.0]]]]).bfloat16()
    v = torch.tensor([[[[0.0] * 4, [1.0] * 4]]]).bfloat16()
    with torch.no_grad():
        found = grouped_query_attention(q, k, v, None).double().numpy()
    assert_close(found, np.full((1, 1, 1, 4), 1 / (1 + np.exp(-0.5))), "bfloat16")
