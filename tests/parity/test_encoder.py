"""Parity of transformer_encoder with an oracle that has no padding, and its laws."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.backend import BackendName, load
from lm.budgets import Dtype
from lm.config import TrainConfig
from lm.data.batch import Batch
from parity.case import Case, Given
from parity.layers import LAYERS
from parity.problem import Problem
from tests.parity.support import answers, assert_close, assert_parity, examples, outputs, variant

STACK, MODEL = "encoder_stack", "transformer_encoder"
BACKENDS: tuple[BackendName, ...] = ("torch", "jax")
ROPE, LEARNED = variant(position="rope", num_kv_heads=1), variant(position="learned", tie_embeddings=True)
"""Seeds of two models of the family."""


def model(seed: int, layer: str = MODEL) -> Given:
    """Draw a model of the family, and sequences of 1, 3 and 5 tokens in some order."""
    return Problem(Case(layer, LAYERS[layer].shapes[0], seed), "float64").given


@pytest.mark.parametrize("layer", [STACK, MODEL])
@pytest.mark.parametrize("dtype", LAYERS[MODEL].dtypes)
@examples(1)
@given(seed=st.integers(0, 2**32 - 1))
def test_parity(seed: int, layer: str, dtype: Dtype) -> None:
    assert_parity(Case(layer, LAYERS[layer].shapes[0], seed), dtype)


@pytest.mark.parametrize("seed", [ROPE, LEARNED])
def test_a_token_sees_both_ways_and_no_padding(seed: int) -> None:
    given = model(seed)
    ids, num_tokens = given.constants["token_ids"], given.constants["num_tokens"]
    whole = answers(MODEL, given.arrays, given.constants, dtype="float64", **given.statics)
    for place in (0, 2, 4):
        other = ids.copy()
        other[:, place] = (ids[:, place] + 1) % 11
        constants = {"token_ids": other, "num_tokens": num_tokens}
        for name, (output, gradients) in answers(
            MODEL, given.arrays, constants, dtype="float64", **given.statics
        ).items():
            changed = np.abs(output - whole[name][0]).max(-1) > 0
            # A token changes the outputs at all tokens of its sequence; padding changes none, not by a bit.
            for b, n in enumerate(num_tokens):
                np.testing.assert_array_equal(changed[b, :n], place < n)
            if (place >= num_tokens).all():
                for weight, gradient in gradients.items():
                    np.testing.assert_array_equal(gradient, whole[name][1][weight])


@pytest.mark.parametrize("seed", [ROPE, LEARNED])
def test_how_much_padding_there_is_changes_nothing(seed: int) -> None:
    given = model(seed)
    whole = outputs(MODEL, given.arrays, given.constants, dtype="float64", **given.statics)
    more = given.constants | {"token_ids": np.pad(given.constants["token_ids"], ((0, 0), (0, 1)))}
    for name, output in outputs(MODEL, given.arrays, more, dtype="float64", **given.statics).items():
        assert_close(output[:, :5], whole[name], "float64", "model_forward")


def test_padding_reaches_no_gradient() -> None:
    """An id that stands only in padding, and a position with nothing but padding, have no gradient."""
    given = model(LEARNED)
    constants = {"token_ids": given.constants["token_ids"] % 10, "num_tokens": np.array([3, 1, 2])}
    constants["token_ids"][np.arange(5) >= constants["num_tokens"][:, None]] = 10
    # The head is tied: its part of the embedding's gradient is the same with another id in the padding.
    found = []
    for padding in (10, 9):
        ids = np.where(constants["token_ids"] == 10, padding, constants["token_ids"])
        found.append(answers(MODEL, given.arrays, constants | {"token_ids": ids}, **given.statics))
    for name in BACKENDS:
        (_, gradients), (_, others) = found[0][name], found[1][name]
        for weight, gradient in gradients.items():
            np.testing.assert_array_equal(gradient, others[weight])
        assert gradients["position_embeddings.weight"][:3].all()
        assert not gradients["position_embeddings.weight"][3:].any()


@pytest.mark.parametrize("what", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("seed", [ROPE, LEARNED])
def test_padded_keys_are_not_read_whatever_they_hold(seed: int, what: float) -> None:
    given = model(seed, STACK)
    x = given.arrays["x"].copy()
    x[np.arange(5) >= given.constants["num_tokens"][:, None]] = what
    clean = outputs(STACK, given.arrays, given.constants, dtype="float64", **given.statics)
    for name, output in outputs(
        STACK, given.arrays | {"x": x}, given.constants, dtype="float64", **given.statics
    ).items():
        np.testing.assert_array_equal(output, clean[name])


@pytest.mark.parametrize("name", BACKENDS)
def test_padding_counts_in_neither_loss_nor_step(name: BackendName) -> None:
    """With longer padding and other ids and targets in it, loss, accuracy, gradients and weights stay the same."""
    # Which attention weights are dropped depends on how many there are, padding included.
    family = dataclasses.replace(model(ROPE).statics["config"], attention_dropout=0.0)
    config = TrainConfig(family, compute_dtype="float64")
    backend = load(name, config)
    rng = np.random.default_rng(0)
    num_tokens = np.array([[4, 1, 3]], np.int32)
    is_token = np.arange(5) < num_tokens[..., None]
    inputs, targets = rng.integers(0, 11, (2, 1, 3, 5))
    results = []
    for other in (0, 1):
        padded_inputs, padded_targets = (
            np.where(is_token, ids, (ids + other) % 11)[..., : 5 - other] for ids in (inputs, targets)
        )
        batch = Batch(
            padded_inputs,
            padded_targets,
            (is_token & (inputs % 2 == 0))[..., : 5 - other],
            num_tokens,
        )
        state = backend.init_state(config, 0)
        evaluated = backend.make_eval_step(config)(state, batch)
        state, _ = backend.make_train_step(config)(state, batch, 1e-2)
        results.append((evaluated, {k: a.copy() for k, a in backend.read_weights(state)}))
    (a, weights), (b, others) = results
    assert a[1:] == b[1:]
    assert_close(a[0], b[0], "float64", "model_forward")
    for weight, array in weights.items():
        assert_close(array, others[weight], "float64", "model_gradient")


@pytest.mark.parametrize("name", BACKENDS)
def test_logits_of_each_token(name: BackendName) -> None:
    """A backend's logits are those of the model."""
    given = model(ROPE)
    config = TrainConfig(given.statics["config"], compute_dtype="float64")
    backend, num_tokens = load(name, config), given.constants["num_tokens"]
    state = backend.load_state(config, given.arrays.items(), None)
    logits = backend.make_logits(config)(state, given.constants["token_ids"], num_tokens)
    whole = outputs(MODEL, given.arrays, given.constants, dtype="float64", **given.statics)
    for b, n in enumerate(num_tokens):
        assert_close(logits[b, :n], whole[name][b, :n], "float64", "model_forward")
