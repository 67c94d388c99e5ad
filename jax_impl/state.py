"""The state of a run: how it starts, is loaded, and is read leaf by leaf."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_impl import sharding
from jax_impl.dtypes import Params
from jax_impl.optimizer import AdamWState
from jax_impl.trees import named_leaves, nested
from lm.config import TrainConfig
from lm.init import initial_moments, initial_weights
from lm.mesh import Mesh
from lm.run.leaves import Leaves, Share, Shares
from tokenizer.errors import InputError


class TrainState(NamedTuple):
    """The weights and, while training, the optimizer's state. Each step makes a new state in the same memory."""

    params: Params
    optimizer: AdamWState | None


def init_state(config: TrainConfig, seed: int, mesh: Mesh | None = None) -> TrainState:
    """Return the state before the first step: the weights of `lm.init`, and zero moments."""
    weights = initial_weights(config.model, seed, config.param_dtype)
    return load_state(config, weights, initial_moments(config.model, config.param_dtype), mesh)


def load_state(
    config: TrainConfig, weights: Leaves, optimizer: Leaves | None, mesh: Mesh | None = None
) -> TrainState:
    """Return a state of these leaves, copied into memory that JAX allocated."""
    if config.compute_dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise InputError(
            "compute_dtype float64 needs JAX's x64 mode: call lm.backend.load, or set JAX_ENABLE_X64=1"
        )
    sharding_of = sharding.shardings(config, mesh)

    def put(leaves: Leaves) -> Params:
        return nested({name: sharding.put(leaf, sharding_of(name, leaf.shape)) for name, leaf in leaves})

    if optimizer is None:
        return TrainState(put(weights), None)
    return TrainState(put(weights), AdamWState(**put(optimizer)))


def read_weights(state: TrainState) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the weights by name."""
    for name, leaf in named_leaves(state.params):
        yield name, np.asarray(leaf)


def read_optimizer(state: TrainState) -> Iterator[tuple[str, np.ndarray]]:
    """Yield `m.<name>` and `v.<name>` of every weight, and `step`."""
    assert state.optimizer is not None
    for name, leaf in named_leaves(state.optimizer._asdict()):
        yield name, np.asarray(leaf)


def read_shares(state: TrainState) -> tuple[Shares, Shares]:
    """Return what this process saves of the weights and of the optimizer's leaves."""
    assert state.optimizer is not None

    def shares(tree: Any) -> Shares:
        return (
            (name, Share(leaf.shape, leaf.dtype, partial(sharding.slices_to_save, leaf)))
            for name, leaf in named_leaves(tree)
        )

    return shares(state.params), shares(state.optimizer._asdict())
