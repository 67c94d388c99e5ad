"""The state of a run: how it starts, is loaded, and is read leaf by leaf."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm.config import TrainConfig
from lm.init import initial_weights, muon_names
from lm.mesh import Mesh
from lm.run.leaves import Leaves, Share, Shares
from torch_impl import fast, sharding
from torch_impl.dtypes import dtype_named
from torch_impl.optimizer import AdamW, Muon
from torch_impl.sequences import MODELS


@dataclass
class TrainState:
    """The model, of the architecture's class, and its optimizer. Each step changes both in place."""

    model: Any
    weights: dict[str, Tensor]
    """Each weight by name; with a mesh, this process's share of its rows."""
    optimizer: AdamW
    arrays: list[fast.Array]
    """What `optimizer` updates: all of `weights` except those of Muon, small weights packed together."""
    muon: Muon | None = None
    """The optimizer of the blocks' matrices, if it is Muon. `optimizer` then updates the others."""
    average: dict[str, Tensor] | None = None
    """The moving average of each weight, if the config asks for it."""
    mesh: Mesh | None = None

    @property
    def step(self) -> int:
        """The number of optimizer steps taken."""
        return max((state["step"] for state in self.optimizer.state.values()), default=0)


def init_state(config: TrainConfig, seed: int, mesh: Mesh | None = None) -> TrainState:
    """Return the state before the first step: the weights of `lm.init`, and zero moments."""
    state = load_state(config, initial_weights(config.model, seed, config.param_dtype), None, mesh)
    if config.optimizer.average_decay is not None:
        state.average = copies(state.weights)
    return state


def copies(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in memory of their own."""
    return {name: p.detach().clone() for name, p in weights.items()}


def load_state(
    config: TrainConfig, weights: Leaves, optimizer: Leaves | None, mesh: Mesh | None = None
) -> TrainState:
    """Return a state of these leaves, copied into memory that torch allocated."""
    m, o = config.model, config.optimizer
    dtypes = dtype_named(config.compute_dtype), dtype_named(config.param_dtype)
    # Drawing initial weights, which the leaves would replace, takes longer than reading the leaves.
    model = MODELS[m.architecture](m, dtypes[0], "meta", dtypes[1])
    if mesh:
        found = sharding.shard(model, config, mesh)
    else:
        # `to_empty` loads the compiler's sympy to compute the strides of arrays without memory.
        empty = {
            n: torch.empty(p.shape, dtype=p.dtype, device=config.device) for n, p in model.named_parameters()
        }
        model.load_state_dict(empty, assign=True)
        found = dict(model.named_parameters())
    for name, leaf in weights:
        sharding.put(leaf, found[name], mesh)
    of_muon = {name: found[name] for name in muon_names(m, o)}
    of_adamw = {name: p for name, p in found.items() if name not in of_muon}
    # Gains and biases have one axis.
    decaying = {name: p for name, p in of_adamw.items() if p.ndim > 1 or o.decay == "all"}
    others = {name: p for name, p in of_adamw.items() if name not in decaying}
    groups = [(fast.pack(decaying), o.weight_decay), (fast.pack(others), 0.0)]
    adamw = AdamW(
        [
            {"params": [array.whole for array in arrays], "weight_decay": weight_decay}
            for arrays, weight_decay in groups
            if arrays
        ],
        o.learning_rate,
        (o.beta1, o.beta2),
        o.eps,
        form=o.adamw,
    )
    muon = None
    if of_muon:
        muon = Muon(
            of_muon.values(),
            o.muon_learning_rate,
            o.muon_momentum,
            o.weight_decay,
            o.muon_scale,
            o.muon_dtype,
            sharding.on_whole(model, found, mesh),
        )
    arrays = [array for arrays, _ in groups for array in arrays]
    state = TrainState(model, found, adamw, arrays, muon, mesh=mesh)
    if optimizer is not None:
        if o.average_decay is not None:
            state.average = copies(found)
        for array in state.arrays:
            zeros = {moment: torch.zeros_like(array.whole) for moment in ("m", "v")}
            adamw.state[array.whole] = {"step": 0, **zeros}
        for p in of_muon.values():
            assert muon is not None
            muon.state[p] = {"m": torch.zeros_like(p)}
        moments = dict(_optimizer_leaves(state))
        for name, leaf in optimizer:
            if name == "step":
                for array in state.arrays:
                    adamw.state[array.whole]["step"] = int(leaf[...])
            else:
                sharding.put(leaf, moments[name], mesh)
    return state


@contextlib.contextmanager
def averaged(state: TrainState) -> Iterator[TrainState]:
    """Return the state to evaluate: inside, its weights are the averages, if there are any."""

    def swap() -> None:
        for name, x in (state.average or {}).items():
            p = state.weights[name].detach()
            before = p.clone()
            p.copy_(x)
            x.copy_(before)

    swap()
    try:
        yield state
    finally:
        swap()


def read_weights(state: TrainState) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the weights by name."""
    for name, p in state.weights.items():
        yield name, p.detach().cpu().numpy()


def read_optimizer(state: TrainState) -> Iterator[tuple[str, np.ndarray]]:
    """Yield `m.<name>` and `v.<name>` of every weight, and `step`. Weights of Muon have no `v`."""
    for name, x in _optimizer_leaves(state):
        yield name, x.cpu().numpy()


def _optimizer_leaves(state: TrainState) -> Iterator[tuple[str, Tensor]]:
    """Yield every leaf of the optimizer by its name in a checkpoint. Moments are zeros before the first step."""
    yield from fast.moments(state.arrays, state.optimizer)
    if state.muon is not None:
        names = {p: name for name, p in state.weights.items()}
        for p in state.muon.matrices:
            yield f"m.{names[p]}", state.muon.state[p].get("m", torch.zeros_like(p)).detach()
    if state.average is not None:
        yield from ((f"average.{name}", x) for name, x in state.average.items())
    yield "step", torch.tensor(state.step, dtype=torch.int32)


def read_shares(state: TrainState) -> tuple[Shares, Shares]:
    """Return what this process saves of the weights and of the optimizer's leaves."""
    shapes = {name: tuple(p.shape) for name, p in state.model.named_parameters()}

    def shares(leaves: Iterable[tuple[str, Tensor]]) -> Shares:
        for name, x in leaves:
            shape = () if name == "step" else shapes[name if name in shapes else name.partition(".")[2]]
            dtype = np.dtype(str(x.dtype).removeprefix("torch."))
            yield name, Share(shape, dtype, partial(sharding.slices_to_save, x, shape, state.mesh))

    return (
        shares((name, p.detach()) for name, p in state.weights.items()),
        shares(_optimizer_leaves(state)),
    )
