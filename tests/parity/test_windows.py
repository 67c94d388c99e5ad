"""Laws of sliding windows, and of layers of two types."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import jax_impl.masks
import torch_impl.masks
from lm.config import ModelConfig
from parity import oracle
from parity.case import Arrays
from parity.draws import model_weights
from tests.parity.support import assert_close, examples, logits
from tests.parity.test_family import model

T = 8


def draw(options: dict[str, Any], layers: int = 1) -> tuple[ModelConfig, Arrays, np.ndarray]:
    """Draw a model, its weights, and token ids."""
    config, rng = model(options, layers, context_length=T), np.random.default_rng(0)
    return config, model_weights(rng, config), rng.integers(0, 11, (2, T))


@pytest.mark.parametrize("window", [1, 2, 3, 5, 9])
def test_a_query_sees_itself_and_what_lies_in_the_window(window: int) -> None:
    expected = oracle.window_mask(5, window)
    assert expected.sum(1).tolist() == [min(t + 1, window) for t in range(5)]
    for masks in (torch_impl.masks, jax_impl.masks):
        np.testing.assert_array_equal(masks.causal_mask(5, window=window).pairs(5), expected)


@examples(20)
@given(window=st.integers(1, 7), starts=st.sets(st.integers(1, 5)))
def test_a_window_ends_at_the_start_of_a_document(window: int, starts: set[int]) -> None:
    row = np.array([max(s for s in (0, *starts) if s <= t) for t in range(6)])
    expected = oracle.window_mask(6, window) & (row[:, None] == row)
    as_torch = torch_impl.masks.document_mask(torch.tensor(row[None]), window)
    as_jax = jax_impl.masks.document_mask(jnp.array(row[None]), window)
    for mask in (as_torch, as_jax):
        np.testing.assert_array_equal(np.asarray(mask.pairs(6))[0, 0], expected)


@pytest.mark.parametrize("position", ["rope", "learned"])
def test_a_window_as_long_as_the_text_is_full_attention(position: str) -> None:
    config, weights, ids = draw({"position": position})
    whole = logits(config, weights, ids)
    for backend, found in logits(replace(config, sliding_window=T), weights, ids).items():
        assert_close(found, whole[backend], "float64", "model_forward")
    for backend, found in logits(replace(config, sliding_window=T - 1), weights, ids).items():
        differs = np.abs(found - whole[backend]).max((0, 2)) > 1e-9
        np.testing.assert_array_equal(differs, np.arange(T) == T - 1)


@pytest.mark.parametrize("window", [1, 3])
def test_a_token_reaches_as_many_queries_as_the_window_has_places(window: int) -> None:
    """In one layer, token s changes the logits at s .. s + window - 1, and no bit of the others."""
    config, weights, ids = draw({"sliding_window": window})
    before, s = logits(config, weights, ids), 2
    ids[:, s] = (ids[:, s] + 1) % 11
    for backend, found in logits(config, weights, ids).items():
        changed = (found != before[backend]).any((0, 2))
        np.testing.assert_array_equal(changed, (np.arange(T) >= s) & (np.arange(T) < s + window))


def test_layers_slide_in_the_order_of_the_list() -> None:
    """Two sliding layers reach two windows back; with a full layer among them a token reaches all that follow."""
    for types, reach in ((("sliding",), 3), (("sliding", "full"), T), (("full", "sliding"), T)):
        config, weights, ids = draw({"sliding_window": 2, "layer_types": types}, layers=2)
        before = logits(config, weights, ids)
        ids[:, 1] = (ids[:, 1] + 1) % 11
        for backend, found in logits(config, weights, ids).items():
            changed = (found != before[backend]).any((0, 2))
            np.testing.assert_array_equal(changed, (np.arange(T) >= 1) & (np.arange(T) < 1 + reach))


def test_the_order_of_the_types_matters() -> None:
    """Each layer has its own weights, so that it matters which of them slides."""
    config, weights, ids = draw({"sliding_window": 2, "layer_types": ("sliding", "full")}, layers=2)
    other = logits(replace(config, layer_types=("full", "sliding")), weights, ids)
    for backend, found in logits(config, weights, ids).items():
        assert np.abs(found - other[backend]).max() > 0.01


def test_sliding_layers_have_their_own_theta_and_no_scaling() -> None:
    """A model whose layers all slide does not know the other theta."""
    scaled: dict[str, Any] = {"rope_scaling": "linear", "rope_factor": 4.0}
    config, weights, ids = draw({"sliding_window": T, "sliding_rope_theta": 10.0} | scaled)
    own = logits(config, weights, ids)
    plain = logits(draw({})[0], weights, ids)
    alone = logits(replace(draw({})[0], rope_theta=10.0), weights, ids)
    for backend, found in own.items():
        assert_close(found, alone[backend], "float64", "model_forward")
        assert np.abs(found - plain[backend]).max() > 0.001
