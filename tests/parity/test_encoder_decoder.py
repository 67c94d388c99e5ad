"""Parity of encoder_decoder, and of its decoder alone, with an oracle that has no padding; their laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.backend import BackendName, load
from lm.budgets import RUN, Dtype, relative_error
from lm.config import TrainConfig
from lm.data.batch import Batch
from parity.case import Case, Given
from parity.layers import LAYERS
from parity.problem import Problem
from tests.parity.support import answers, assert_close, assert_parity, examples, outputs, variant
from tokenizer import InputError

DECODER, MODEL = "prefix_decoder", "encoder_decoder"
BACKENDS: tuple[BackendName, ...] = ("torch", "jax")
ROPE, LEARNED = variant(position="rope", num_kv_heads=1), variant(position="learned", tie_embeddings=True)
"""Seeds of two models of the family."""


def model(seed: int, layer: str = MODEL) -> Given:
    """Draw a model of the family, and prefixes of 1, 3 and 5 tokens in some order."""
    return Problem(Case(layer, LAYERS[layer].shapes[0], seed), "float64").given


def logits_of(given: Given, **constants: np.ndarray) -> dict[str, np.ndarray]:
    """Return the logits by backend."""
    return outputs(MODEL, given.arrays, given.constants | constants, dtype="float64", **given.statics)


@pytest.mark.parametrize("layer", [DECODER, MODEL])
@pytest.mark.parametrize("dtype", LAYERS[MODEL].dtypes)
@examples(1)
@given(seed=st.integers(0, 2**32 - 1))
def test_parity(seed: int, layer: str, dtype: Dtype) -> None:
    assert_parity(Case(layer, LAYERS[layer].shapes[0], seed), dtype)


@pytest.mark.parametrize("seed", [ROPE, LEARNED])
def test_tokens_see_all_of_the_prefix_and_the_tokens_before_them(seed: int) -> None:
    given = model(seed)
    ids, prefix, num_tokens = (given.constants[name] for name in ("token_ids", "prefix", "num_tokens"))
    whole = logits_of(given)
    for place in range(5):
        other = prefix.copy()
        other[:, place] = (prefix[:, place] + 1) % 11
        for name, output in logits_of(given, prefix=other).items():
            changed = np.abs(output - whole[name]).max(-1) > 0
            np.testing.assert_array_equal(changed, np.repeat(place < num_tokens[:, None], 3, 1))
    for place in range(3):
        other = ids.copy()
        other[:, place] = (ids[:, place] + 1) % 11
        for name, output in logits_of(given, token_ids=other).items():
            changed = np.abs(output - whole[name]).max(-1) > 0
            np.testing.assert_array_equal(changed, np.broadcast_to(np.arange(3) >= place, (3, 3)))


@pytest.mark.parametrize("seed", [ROPE, LEARNED])
def test_how_much_padding_there_is_changes_nothing(seed: int) -> None:
    """RoPE's positions, too, continue from the prefix's end, not from its padding's end."""
    given = model(seed)
    whole = logits_of(given)
    for name, output in logits_of(given, prefix=np.pad(given.constants["prefix"], ((0, 0), (0, 1)))).items():
        assert_close(output, whole[name], "float64", "model_forward")


@pytest.mark.parametrize("what", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("seed", [ROPE, LEARNED])
def test_padding_of_the_prefix_reaches_nothing_whatever_it_holds(seed: int, what: float) -> None:
    """The padding reaches neither logits nor a gradient, and its own gradient is zero."""
    given = model(seed, DECODER)
    is_padding = np.arange(5) >= given.constants["num_tokens"][:, None]
    hidden = given.arrays["x"].copy()
    hidden[is_padding] = what
    clean = answers(DECODER, given.arrays, given.constants, dtype="float64", **given.statics)
    for name, (output, gradients) in answers(
        DECODER, given.arrays | {"x": hidden}, given.constants, dtype="float64", **given.statics
    ).items():
        np.testing.assert_array_equal(output, clean[name][0])
        for weight, gradient in gradients.items():
            np.testing.assert_array_equal(gradient, clean[name][1][weight])
        assert not gradients["x"][is_padding].any()
        assert gradients["x"][~is_padding].any(-1).all()


@pytest.mark.parametrize("seed", [ROPE, LEARNED])
@pytest.mark.parametrize("name", BACKENDS)
def test_prefill_and_decoding_give_the_logits_of_the_whole(name: BackendName, seed: int) -> None:
    """The logits agree at every position, for prefixes and starts of different lengths."""
    given = model(seed)
    config = TrainConfig(given.statics["config"], compute_dtype="float64")
    ids, prefix, num_tokens = (given.constants[name] for name in ("token_ids", "prefix", "num_tokens"))
    backend = load(name, config)
    state = backend.load_state(config, given.arrays.items(), None)
    rows, whole = np.arange(3), logits_of(given)[name]
    prefill, decode = backend.make_prefill(config), backend.make_decode_step(config)
    for lengths in (np.array([1, 1, 1]), np.array([2, 1, 3])):
        logits, cache = prefill(state, ids, lengths, None, prefix, num_tokens)
        assert_close(logits, whole[rows, lengths - 1], "float64", "model_forward")
        for place in range(lengths.min(), 3):
            positions = np.maximum(lengths, place)
            positions = np.minimum(positions, 2)
            logits, cache = decode(state, cache, ids[rows, positions], positions)
            assert_close(logits, whole[rows, positions], "float64", "model_forward")


@pytest.mark.parametrize("name", BACKENDS)
def test_beyond_the_context_the_prefix_stays_in_sight(name: BackendName) -> None:
    """Only the tokens' slots slide: a late token still depends on the prefix, and not on the first token."""
    given = model(ROPE)
    config = TrainConfig(given.statics["config"], compute_dtype="float64")
    backend = load(name, config)
    state = backend.load_state(config, given.arrays.items(), None)
    prefill, decode = backend.make_prefill(config), backend.make_decode_step(config)

    def last(prefix: np.ndarray, first: int) -> np.ndarray:
        logits, cache = prefill(state, np.array([[first]]), np.array([1]), None, prefix, np.array([5]))
        for position in range(1, 9):  # the context has 4
            logits, cache = decode(state, cache, np.array([position]), np.array([position]))
        return logits

    prefix = given.constants["prefix"][:1]
    np.testing.assert_array_equal(last(prefix, 0), last(prefix, 5))
    assert np.abs(last(prefix, 0) - last((prefix + 1) % 11, 0)).max() > 1e-6


def test_steps_of_training() -> None:
    """torch and JAX agree on losses, and on weights after ten steps; a row without targets yields no NaN."""
    given = model(LEARNED)
    config = TrainConfig(given.statics["config"], compute_dtype="float64")
    results = []
    for name in BACKENDS:
        backend, rng = load(name, config), np.random.default_rng(0)
        state, step = backend.init_state(config, 0), backend.make_train_step(config)
        losses = []
        for _ in range(10):
            inputs, targets = rng.integers(0, 11, (2, 2, 3, 4))
            mask = np.arange(4) < rng.integers(1, 5, (2, 3, 1))
            num_tokens = rng.integers(1, 6, (2, 3)).astype(np.int32)
            mask[1, 2], num_tokens[1, 2] = False, 0
            batch = Batch(inputs, targets, mask, num_tokens, rng.integers(0, 11, (2, 3, 5)))
            state, metrics = step(state, batch, 1e-3)
            assert metrics["finite"]
            losses.append(float(metrics["loss"]))
        results.append(
            (np.array(losses), {k: np.array(a, np.float64) for k, a in backend.read_weights(state)})
        )
    (a, weights), (b, others) = results
    np.testing.assert_array_less(np.abs(a - b) / b, RUN["float64"])
    for weight, array in weights.items():
        assert relative_error(array, others[weight]) <= RUN["float64"], weight


@pytest.mark.parametrize("name", BACKENDS)
def test_ids_out_of_range_in_a_prefix_are_refused(name: BackendName) -> None:
    given = model(ROPE)
    config = TrainConfig(given.statics["config"])
    backend = load(name, config)
    state, ids, n = backend.init_state(config, 0), np.zeros((1, 2, 3), int), np.array([[2, 2]])
    bad = np.full((1, 2, 5), 11)
    with pytest.raises(InputError, match="token id 11 is outside 0"):
        backend.make_eval_step(config)(state, Batch(ids, ids, None, n, bad))
    with pytest.raises(InputError, match="token id 11 is outside 0"):
        backend.make_prefill(config)(state, ids[0], np.array([1, 1]), None, bad[0], n[0])


def test_a_tied_head_is_the_decoders_embedding() -> None:
    given = model(LEARNED)
    assert "encoder.token_embeddings.weight" in given.arrays
    assert not any("lm_head" in name for name in given.arrays)
    # The encoder's embedding is no head: its rows of unseen ids change no logit.
    unseen = np.setdiff1d(np.arange(11), given.constants["prefix"])
    weight = "encoder.token_embeddings.weight"
    other = given.arrays[weight].copy()
    other[unseen] += 1
    whole = logits_of(given)
    for name, output in logits_of(given._replace(arrays=given.arrays | {weight: other})).items():
        np.testing.assert_array_equal(output, whole[name])
