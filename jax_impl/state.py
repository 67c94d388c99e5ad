"""The state of a run: how it starts, is loaded, and is read leaf by leaf."""

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_impl import sharding
from jax_impl.dtypes import Params
from jax_impl.optimizer import AdamWState, MuonState
from jax_impl.trees import choose, named_leaves, nested
from lm.config import TrainConfig
from lm.init import initial_moments, initial_weights, muon_names, parameter_shapes
from lm.mesh import Mesh
from lm.run.leaves import Leaves, Share, Shares
from tokenizer.errors import InputError


class TrainState(NamedTuple):
    """The weights and, while training, the optimizer's state. Each step makes a new state in the same memory."""

    params: Params
    optimizer: AdamWState | None
    muon: MuonState | None = None
    """The momentum of the weights that Muon updates, if it is the optimizer."""
    average: Params | None = None
    """The moving average of each weight, if the config asks for it."""


def init_state(config: TrainConfig, seed: int, mesh: Mesh | None = None) -> TrainState:
    """Return the state before the first step: the weights of `lm.init`, and zero moments."""
    weights = initial_weights(config.model, seed, config.param_dtype)
    moments = initial_moments(config.model, config.param_dtype, config.optimizer)
    return load_state(config, weights, moments, mesh)


def copies(params: Params) -> Params:
    """Return weights in memory of their own."""
    return jax.tree.map(jnp.copy, params)


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
        # `sharding.put` may give a view of the caller's memory. Its copy is one program for each shape.
        return nested(
            {
                name: jax.block_until_ready(jnp.copy(sharding.put(leaf, sharding_of(name, leaf.shape))))
                for name, leaf in leaves
            }
        )

    if optimizer is None:
        return TrainState(put(weights), None)
    params, moments, of_muon = put(weights), put(optimizer), muon_names(config.model, config.optimizer)
    of_adamw = parameter_shapes(config.model).keys() - of_muon
    adamw = AdamWState(choose(moments["m"], of_adamw), moments["v"], moments["step"])
    muon = MuonState(choose(moments["m"], of_muon)) if of_muon else None
    average = None
    if config.optimizer.average_decay is not None:
        average = moments["average"] if "average" in moments else copies(params)
    return TrainState(params, adamw, muon, average)


@contextlib.contextmanager
def averaged(state: TrainState) -> Iterator[TrainState]:
    """Return the state to evaluate: its weights are the averages, if there are any."""
    yield state if state.average is None else state._replace(params=state.average)


def read_weights(state: TrainState) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the weights by name."""
    for name, leaf in named_leaves(state.params):
        yield name, np.asarray(leaf)


def read_optimizer(state: TrainState) -> Iterator[tuple[str, np.ndarray]]:
    """Yield `m.<name>` and `v.<name>` of every weight, and `step`. Weights of Muon have no `v`."""
    for name, leaf in _optimizer_leaves(state):
        yield name, np.asarray(leaf)


def _optimizer_leaves(state: TrainState) -> Iterator[tuple[str, jax.Array]]:
    """Yield every leaf of the optimizer by its name in a checkpoint."""
    assert state.optimizer is not None
    yield from named_leaves(state.optimizer._asdict())
    if state.muon is not None:
        yield from named_leaves(state.muon._asdict())
    if state.average is not None:
        yield from named_leaves({"average": state.average})


def read_shares(state: TrainState) -> tuple[Shares, Shares]:
    """Return what this process saves of the weights and of the optimizer's leaves."""

    def shares(leaves: Iterable[tuple[str, jax.Array]]) -> Shares:
        return (
            (name, Share(leaf.shape, leaf.dtype, partial(sharding.slices_to_save, leaf)))
            for name, leaf in leaves
        )

    return shares(named_leaves(state.params)), shares(_optimizer_leaves(state))
