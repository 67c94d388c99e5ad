"""Decoding with a cache whose rings slide: the logits of the whole forward pass, from a bounded cache."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lm.backend import Backend, BackendName, load
from lm.config import ModelConfig, TrainConfig
from lm.data.documents import document_starts
from lm.init import parameter_shapes
from tests.parity.support import assert_close

WINDOW = 3
SLIDING = ModelConfig(32, 24, 16, 3, 4, num_kv_heads=2, sliding_window=WINDOW)
IN_TURNS = replace(
    SLIDING,
    d_head=6,
    layer_types=("sliding", "full"),
    rope_theta=500.0,
    sliding_rope_theta=20.0,
    rope_scaling="linear",
    rope_factor=2.0,
    qk_norm=True,
    norm_gain="one_plus_weight",
    norm_position="sandwich",
    score_dim=5.0,
    score_softcap=2.0,
    logit_softcap=4.0,
    scale_embeddings=True,
    ffn="geglu_tanh",
)
LENGTHS = np.array([1, WINDOW, 2 * WINDOW + 2])
"""Numbers of tokens of the prompts: shorter than the window, as long, and longer."""
STEPS = 3 * WINDOW
"""Tokens after each prompt."""
both_backends = pytest.mark.parametrize("name", ["torch", "jax"])


def train_config(model: ModelConfig, **options: Any) -> TrainConfig:
    return TrainConfig(model, compute_dtype="float64", **options)


def texts() -> np.ndarray:
    """Draw one text for each prompt. After a shorter text stand tokens that nothing may read."""
    rng = np.random.default_rng(0)
    return rng.integers(1, SLIDING.vocab_size, (len(LENGTHS), LENGTHS.max() + STEPS)).astype(np.int32)


def random_state(backend: Backend, config: TrainConfig) -> Any:
    """Return a state of random weights. Fresh gains would be all alike."""
    rng = np.random.default_rng(1)
    weights = {name: rng.normal(0.0, 0.5, shape) for name, shape in parameter_shapes(config.model).items()}
    return backend.load_state(config, weights.items(), None)


def whole(backend: Backend, config: TrainConfig, ids_BT: np.ndarray) -> np.ndarray:
    """Return the logits of the forward pass after each token from the last of each prompt, (rows, steps, V)."""
    logits_BTV = backend.make_logits(config)(random_state(backend, config), ids_BT)
    return logits_BTV[np.arange(len(ids_BT))[:, None], LENGTHS[:, None] - 1 + np.arange(STEPS + 1)]


def decoded(
    backend: Backend, config: TrainConfig, ids_BT: np.ndarray, slots: int | None = None
) -> tuple[np.ndarray, list[int]]:
    """Return the logits that decoding gives after the same tokens, and the number of slots of each layer's cache."""
    state, step = random_state(backend, config), backend.make_decode_step(config)
    starts_BT = document_starts(ids_BT, config)
    places_T = np.arange(ids_BT.shape[1])
    positions_BT = np.broadcast_to(places_T, ids_BT.shape) if starts_BT is None else places_T - starts_BT
    logits_BV, cache = backend.make_prefill(config)(state, ids_BT[:, : LENGTHS.max()], LENGTHS, slots)
    logits, rows = [logits_BV], np.arange(len(ids_BT))
    for t in range(STEPS):
        read = rows, LENGTHS + t
        logits_BV, cache = step(state, cache, ids_BT[read], positions_BT[read])
        logits.append(logits_BV)
    return np.stack(logits, axis=1), [layer.v_BHSK.shape[2] for layer in cache.layers]


@both_backends
@pytest.mark.parametrize("model", [SLIDING, IN_TURNS], ids=["all layers slide", "layers in turns"])
def test_decoding_gives_the_logits_of_the_forward_pass_from_a_bounded_cache(
    name: BackendName, model: ModelConfig
) -> None:
    config = train_config(model)
    backend, ids_BT = load(name, config), texts()
    logits, slots = decoded(backend, config, ids_BT)
    assert_close(logits, whole(backend, config, ids_BT), "float64", kind="model_forward")
    length = {"sliding": WINDOW, "full": model.context_length}
    assert slots == [length[model.layer_type(i)] for i in range(model.num_layers)]


@both_backends
def test_the_window_hides_earlier_tokens(name: BackendName) -> None:
    """With one layer, a token is seen by the tokens of its window, and by no other."""
    config = train_config(replace(SLIDING, num_layers=1))
    backend, ids_BT = load(name, config), texts()[-1:]
    changed_BT = ids_BT.copy()
    changed_BT[0, 4] += 1 if changed_BT[0, 4] < 31 else -1
    forward, state = backend.make_logits(config), random_state(backend, config)
    differs_T = (forward(state, ids_BT) != forward(state, changed_BT)).any((0, 2))
    assert np.flatnonzero(differs_T).tolist() == [4, 5, 6]


@both_backends
def test_packed_documents_begin_their_rings_again(name: BackendName) -> None:
    """Documents end inside of a window, and are longer than it. The first token of each is the end token."""
    config = train_config(IN_TURNS, documents="packed", end_token=0)
    ids_BT = texts()
    for row, (length, places) in enumerate(zip(LENGTHS, ([0, 2, 8], [1, 6], [0, 1]), strict=True)):
        ids_BT[row, length + np.array(places)] = 0
    backend = load(name, config)
    logits, _ = decoded(backend, config, ids_BT)
    assert_close(logits, whole(backend, config, ids_BT), "float64", kind="model_forward")


@both_backends
def test_full_layers_whose_rings_slide_are_layers_with_a_window_of_their_slots(name: BackendName) -> None:
    slots = int(LENGTHS.max())
    full = replace(SLIDING, sliding_window=None, layer_types=())
    config, windowed = train_config(full), train_config(replace(SLIDING, sliding_window=slots))
    backend, ids_BT = load(name, config), texts()
    logits, found = decoded(backend, config, ids_BT, slots)
    assert found == [slots] * full.num_layers
    assert_close(logits, whole(backend, windowed, ids_BT), "float64", kind="model_forward")
