"""Small weights packed into one array train as before, with fewer operations."""

import numpy as np
import pytest
import torch

from lm.config import ModelConfig, OptimizerConfig, TrainConfig
from lm.data.batch import Batch
from torch_impl import backend
from torch_impl.fast import packing
from torch_impl.state import TrainState

MODEL = ModelConfig(40, 8, d_model=16, num_layers=2, num_heads=2, bias=True)
# Clipping scales by a norm, which is rounded in another order if weights are packed.
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, max_grad_norm=1e9, decay="matrices")
CONFIG = TrainConfig(MODEL, OPTIMIZER, batch_size=4)


def trained(state: TrainState, steps: int) -> TrainState:
    step = backend.make_train_step(CONFIG)
    for i in range(steps):
        ids = np.random.default_rng(i).integers(0, 40, (1, 4, 9)).astype(np.int32)
        state, _ = step(state, Batch(ids[..., :-1].copy(), ids[..., 1:].copy()), 1e-2)
    return state


def leaves(state: TrainState) -> dict[str, np.ndarray]:
    return {name: x.copy() for name, x in (*backend.read_weights(state), *backend.read_optimizer(state))}


def test_packed_weights_take_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW acts on each number alone, so weights and moments have the same bits, packed or not."""
    packed = trained(backend.init_state(CONFIG, 0), 3)
    assert len(packed.arrays) == 2  # one with decay, and one of gains and biases without
    monkeypatch.setattr(packing, "SMALL_WEIGHT", 0)
    apart = trained(backend.init_state(CONFIG, 0), 3)
    assert len(apart.arrays) == len(apart.weights)
    found, expected = leaves(packed), leaves(apart)
    assert found.keys() == expected.keys()
    for name, x in found.items():
        assert x.shape == expected[name].shape, name
        assert np.array_equal(x, expected[name]), name


def test_what_is_read_is_loaded() -> None:
    """A state loaded from another's leaves takes the same steps, and shares no memory with it."""
    state = trained(backend.init_state(CONFIG, 0), 2)
    weights, optimizer = dict(backend.read_weights(state)), dict(backend.read_optimizer(state))
    again = backend.load_state(CONFIG, iter(weights.items()), iter(optimizer.items()))
    trained(state, 2)
    trained(again, 2)
    one, other = leaves(state), leaves(again)
    assert all(np.array_equal(x, other[name]) for name, x in one.items())


def test_weights_lie_in_the_array_that_is_updated() -> None:
    state = backend.init_state(CONFIG, 0)
    for array in state.arrays:
        before = {name: p.detach().clone() for name, p in array.parts.items()}
        with torch.no_grad():
            array.whole.add_(1.0)
        assert all(torch.equal(p, before[name] + 1.0) for name, p in array.parts.items())
