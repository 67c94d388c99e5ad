"""With remat a model computes the same numbers in less memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jax_impl.fast import training_options
from jax_impl.functional import cross_entropy
from jax_impl.model import transformer_lm
from lm.backend import BackendName, load
from lm.config import ModelConfig, TrainConfig
from lm.data.windows import get_batch

BACKENDS: tuple[BackendName, ...] = ("torch", "jax")
MODEL = ModelConfig(11, 16, 16, 6, 4, 64, attention_dropout=0.1, residual_dropout=0.1)
AGAIN = dataclasses.replace(MODEL, remat="block")


@pytest.mark.parametrize("name", BACKENDS)
def test_losses_and_weights_are_the_same(name: BackendName) -> None:
    """Dropout's masks are computed again, too. torch gives the same bits; XLA may fuse differently."""
    results = []
    for model in (MODEL, AGAIN):
        config = TrainConfig(dataclasses.replace(model, num_layers=2), batch_size=2, compute_dtype="float64")
        backend = load(name, config)
        state, step = backend.init_state(config, 0), backend.make_train_step(config)
        tokens, losses = np.random.default_rng(0).integers(0, 11, 200), []
        for t in range(2):
            state, metrics = step(state, get_batch(tokens, 0, t, 2, 16), 1e-2)
            losses.append(float(metrics["loss"]))
        results.append((losses, [array.copy() for _, array in backend.read_weights(state)]))
    (losses, weights), (losses_again, weights_again) = results
    np.testing.assert_allclose(losses_again, losses, rtol=0 if name == "torch" else 1e-15)
    for a, b in zip(weights_again, weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=0 if name == "torch" else 1e-15)


def test_torch_keeps_less() -> None:
    """torch keeps each block's input and one block's activations, not all activations of six blocks."""
    ids, kept = torch.zeros((4, 16), dtype=torch.int64), []
    for model in (MODEL, AGAIN):
        config = TrainConfig(model)
        state = load("torch", config).init_state(config, 0)
        storages: dict[int, int] = {}

        def keep(x: torch.Tensor, storages: dict[int, int] = storages) -> torch.Tensor:
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            loss = state.model(ids).sum()
        kept.append(sum(storages.values()))
        loss.backward()
    assert kept[1] < kept[0] / 3


def test_xla_needs_less() -> None:
    """XLA's compiled gradient takes less than half the temporary memory."""
    ids, needed = jnp.zeros((16, 16), jnp.int32), []
    for model in (MODEL, AGAIN):
        config = TrainConfig(model)
        params = load("jax", config).init_state(config, 0).params
        gradient = jax.jit(
            jax.grad(lambda p, m=model: cross_entropy(transformer_lm(p, ids, m), ids)),
            compiler_options=training_options(config.device),
        )
        memory = gradient.lower(params).compile().memory_analysis()
        assert memory is not None
        needed.append(memory.temp_size_in_bytes)
    assert needed[1] < needed[0] / 2
