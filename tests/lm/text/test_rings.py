"""The ring of a layer's cache: what a prompt leaves in it, and how long it is."""

import numpy as np
import pytest

from lm.backend import BackendName, load
from lm.config import ModelConfig, TrainConfig
from lm.text.rings import kept_places
from tests.lm.run.test_train import BACKENDS

WINDOW, T = 5, 24
MODEL = ModelConfig(
    13,
    32,
    8,
    3,
    2,
    d_ff=12,
    d_head=6,
    sliding_window=WINDOW,
    layer_types=("sliding", "full"),
    score_softcap=2.0,
)


def test_a_prompt_leaves_the_tokens_that_decode_steps_would_leave() -> None:
    rng = np.random.default_rng(0)
    for P, S in ((0, 1), (0, 4), (3, 7)):
        lengths_B = rng.integers(1, 3 * S + 1, 16)
        kept_BS = kept_places(lengths_B, P, S)
        for length, kept_S in zip(lengths_B, kept_BS, strict=True):
            ring_S = np.zeros(S, int)
            for t in range(length):
                ring_S[t % S] = t
            np.testing.assert_array_equal(kept_S, [*range(P), *(P + ring_S)])


@pytest.mark.parametrize("name", BACKENDS)
def test_a_sliding_layer_keeps_its_window_alone(name: BackendName) -> None:
    """Far beyond the window, logits are those of the whole text, for prompts shorter and longer than the window."""
    config = TrainConfig(MODEL, compute_dtype="float64")
    backend = load(name, config)
    state, rng = backend.init_state(config, 0), np.random.default_rng(1)
    ids, lengths = rng.integers(0, MODEL.vocab_size, (3, T)), np.array([2, 5, 12])
    whole, decode = backend.make_logits(config)(state, ids), backend.make_decode_step(config)
    logits, cache = backend.make_prefill(config)(state, ids[:, :12], lengths, T)
    assert [layer.v_BHSK.shape[2] for layer in cache.layers] == [WINDOW, T, WINDOW]
    rows, positions = np.arange(3), lengths - 1
    for _ in range(T - 12):
        np.testing.assert_allclose(logits, whole[rows, positions], rtol=1e-12, atol=1e-12)
        positions = positions + 1
        logits, cache = decode(state, cache, ids[rows, positions], positions)
