"""Parity and laws of transformer_lm and of the training loss."""

import numpy as np
import pytest
from hypothesis import given

from lm.backend import BackendName, load
from lm.budgets import Dtype
from lm.config import TrainConfig
from parity.case import Case, Given
from parity.problem import Problem
from tests.parity.support import DTYPES, answers, assert_close, assert_parity, cases, examples, outputs

LAYER = "transformer_lm"


@pytest.mark.parametrize("layer", [LAYER, "training loss"])
@pytest.mark.parametrize("dtype", DTYPES)
@examples(1)
@given(case=cases(LAYER))
def test_parity(case: Case, layer: str, dtype: Dtype) -> None:
    assert_parity(Case(layer, case.shape, case.seed), dtype)


def model() -> Given:
    """Draw the arguments of a model of two layers."""
    return Problem(Case(LAYER, (2, 6, 2, 2, 8, 24, 19), 0), "float64").given


def test_a_later_token_changes_nothing_before_it() -> None:
    given, t = model(), 3
    ids = given.constants["token_ids"].copy()
    ids[:, t + 1 :] = (ids[:, t + 1 :] + 1) % 19
    changed = outputs(LAYER, given.arrays, {"token_ids": ids}, dtype="float64", **given.statics)
    for name, output in outputs(
        LAYER, given.arrays, given.constants, dtype="float64", **given.statics
    ).items():
        assert_close(output[:, : t + 1], changed[name][:, : t + 1], "float64", "model_forward")
        assert (np.abs(output - changed[name])[:, t + 1 :].max(-1) > 0).all()


def test_a_prefix_has_the_logits_of_the_whole() -> None:
    given = model()
    short = {"token_ids": given.constants["token_ids"][:, :4]}
    prefix = outputs(LAYER, given.arrays, short, dtype="float64", **given.statics)
    for name, output in outputs(
        LAYER, given.arrays, given.constants, dtype="float64", **given.statics
    ).items():
        assert_close(prefix[name], output[:, :4], "float64", "model_forward")


def test_an_untied_head_leaves_unseen_embeddings_without_gradient() -> None:
    given = model()
    unseen = np.setdiff1d(np.arange(19), given.constants["token_ids"])
    for _, gradients in answers(LAYER, given.arrays, given.constants, **given.statics).values():
        assert len(unseen)
        assert not gradients["token_embeddings.weight"][unseen].any()
        assert gradients["lm_head.weight"].all()


@pytest.mark.parametrize("backend_name", ["torch", "jax"])
def test_prefill_and_decoding_give_the_logits_of_the_whole(backend_name: BackendName) -> None:
    """After prompts of two lengths, token by token, the logits are those of one pass over the whole sequence."""
    given = model()
    config = TrainConfig(given.statics["config"], compute_dtype="float64")
    backend = load(backend_name, config)
    state = backend.load_state(config, given.arrays.items(), None)
    ids, lengths = given.constants["token_ids"], np.array([2, 4])
    whole = outputs(LAYER, given.arrays, given.constants, dtype="float64", **given.statics)[backend_name]
    logits, cache = backend.make_prefill(config)(state, ids[:, :4], lengths)
    assert_close(logits, whole[np.arange(2), lengths - 1], "float64", "model_forward")
    decode = backend.make_decode_step(config)
    for step in range(2):
        positions = lengths + step
        logits, cache = decode(state, cache, ids[np.arange(2), positions], positions)
        assert_close(logits, whole[np.arange(2), positions], "float64", "model_forward")
