"""Training in several processes (`lm train --mesh`): torch.distributed under torchrun, and fully_shard.

Each process holds its share of each weight's first dimension, gathers whole weights one block at a time, and computes
its share of a batch's rows (Rajbhandari et al., 2020, ZeRO stage 3). Gradients are summed: each row's loss has already
been divided by the number of targets in the whole batch.
"""

import atexit
import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from torch.utils.checkpoint import checkpoint

from lm.config import TrainConfig
from lm.mesh import Mesh, Processes
from lm.run.leaves import Index, Leaf
from tokenizer.errors import InputError
from torch_impl.functional import global_norm
from torch_impl.sequences import EncoderDecoder

_STEP_TIMEOUTS = {"cpu": timedelta(minutes=2), "cuda": timedelta(minutes=10)}
"""How long a step waits for a silent process; a killed process is noticed at once.

On GPUs a collective also waits for the products before it.
"""
_CHECKPOINT_TIMEOUT = timedelta(minutes=30)
"""How long reading and saving of checkpoints wait: a process may be hashing a large checkpoint."""


def join(config: TrainConfig, mesh: Mesh) -> None:
    """Join the other processes that torchrun has started.

    Raises:
        InputError: the number of processes is not the mesh's, or the processes cannot reach each other.
    """
    if mesh.tensor > 1:
        raise InputError(
            f"--mesh {mesh}: torch divides a run over data and fsdp alone; leave tensor out, or use --backend jax"
        )
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count != mesh.size:
        raise InputError(
            f"--mesh {mesh}: takes {mesh.size} processes, and there are {count}; start them with "
            f"torchrun --nproc-per-node {mesh.size} -m lm train ..."
        )
    if distributed.is_initialized():  # by an earlier run of this process
        distributed.barrier()
        return
    kind, _, index = config.device.partition(":")
    if index:
        raise InputError(
            f"device '{config.device}': each process of a mesh takes one of its own; give --device {kind}"
        )
    if kind == "cuda":
        gpus, local = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
        if local >= gpus:
            raise InputError(
                f"--mesh {mesh}: each process takes a GPU, and there are {gpus} here; start as many processes"
            )
        torch.cuda.set_device(local)
    try:
        backends = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
        distributed.init_process_group(backends, timeout=_STEP_TIMEOUTS[kind])
        atexit.register(distributed.destroy_process_group)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--mesh {mesh}: the processes cannot reach each other ({reason}); start them with torchrun"
        ) from None


def is_lost(error: Exception) -> bool:
    """Whether the error says that another process cannot be reached."""
    # Gloo's errors are plain RuntimeErrors. Only their text names gloo.
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )


def processes() -> Processes:
    """Return this process and those that `join` has joined."""
    if not distributed.is_initialized():
        return Processes()
    patient, soon = (
        partial(gather, distributed.new_group(backend="gloo", timeout=timeout))
        for timeout in (_CHECKPOINT_TIMEOUT, _STEP_TIMEOUTS["cpu"])
    )
    return Processes(distributed.get_rank(), distributed.get_world_size(), patient, is_lost, soon)


def gather(group: Any, value: int) -> list[int]:
    """Return every process's value."""
    values = [torch.zeros((), dtype=torch.int64) for _ in range(distributed.get_world_size())]
    distributed.all_gather(values, torch.full_like(values[0], value), group)
    return torch.stack(values).tolist()


def device(config: TrainConfig) -> torch.device:
    """Return the device of this process.

    Raises:
        InputError: the device is not there.
    """
    try:
        return torch.empty(0, device=config.device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device '{config.device}' cannot be used by torch ({reason}); try --device cpu"
        ) from None


@contextlib.contextmanager
def same_bits() -> Iterator[None]:
    """Have torch take deterministic algorithms inside, and refuse operations that have none.

    By default torch adds the gradients of an embedding's rows with atomics, in the order in which the threads arrive.
    The setting ends with the step: the process may be another program's, and decoding, whose operations are
    deterministic anyway, would become slower.
    """
    settings: Any = torch.utils.deterministic
    mode, fills = torch.get_deterministic_debug_mode(), settings.fill_uninitialized_memory
    # torch.use_deterministic_algorithms does the same, but imports the compiler, which takes a second.
    torch.set_deterministic_debug_mode("error")
    # Filling would be one more pass over each new array. Our code writes every array before it reads it.
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        settings.fill_uninitialized_memory = fills


def device_mesh(config: TrainConfig, mesh: Mesh) -> Any:
    """Return torch's own mesh of the devices of all processes."""
    # The import takes a second, and only a mesh needs it.
    from torch.distributed.device_mesh import DeviceMesh

    ranks = torch.arange(mesh.size).view(mesh.data, mesh.fsdp)
    groups = [
        distributed.new_subgroups_by_enumeration(axis.tolist(), timeout=_STEP_TIMEOUTS[config.device])[0]
        for axis in (ranks.T, ranks)
    ]
    return DeviceMesh.from_group(groups, config.device, ranks, mesh_dim_names=("data", "fsdp"))


def shard(model: Any, config: TrainConfig, mesh: Mesh) -> dict[str, Tensor]:
    """Give this process its share of each weight of a model that was made without memory (device "meta").

    The root's weights (embeddings, last norm and head) are gathered together, and each block's weights by themselves.

    Returns:
        The shares by name, in the memory that the model uses. The caller fills them.
    """
    from torch.distributed.fsdp import fully_shard

    devices = device_mesh(config, mesh)
    stacks = [model.encoder, model.decoder] if isinstance(model, EncoderDecoder) else [model]
    for module in (*(block for stack in stacks for block in stack.layers), model):
        sharded = fully_shard(module, mesh=devices)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
    model.to_empty(device=config.device)
    for stack in stacks:
        if stack.recompute:
            # The backward pass gathers the block's weights again.
            stack.recompute = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    with torch.no_grad():
        return {name: p.to_local().detach() for name, p in model.named_parameters()}


def _index(x: Tensor, shape: tuple[int, ...], mesh: Mesh | None) -> Index:
    """Return where this process's share `x` lies in a leaf of this shape.

    Rows are dealt as by torch.chunk: the last processes have fewer rows, or none.
    """
    if mesh is None or not shape:
        return ()
    start = min(distributed.get_rank() % mesh.fsdp * -(-shape[0] // mesh.fsdp), shape[0])
    return (slice(start, start + len(x)),)


@torch.no_grad()
def put(leaf: Leaf, x: Tensor, mesh: Mesh | None) -> None:
    """Copy this process's share of a leaf into `x`."""
    x.copy_(torch.tensor(leaf[_index(x, leaf.shape, mesh)]))


def batch_rows(mesh: Mesh | None, rows: int) -> slice:
    """Return which rows of a micro-batch this process computes."""
    if mesh is None:
        return slice(0, rows)
    share = rows // mesh.size
    start = distributed.get_rank() * share
    return slice(start, start + share)


def slices_to_save(
    x: Tensor, shape: tuple[int, ...], mesh: Mesh | None
) -> Iterator[tuple[Index, np.ndarray]]:
    """Yield this process's share `x` of a leaf of this shape. If several processes hold it, one of them saves it."""
    if mesh is None or distributed.get_rank() < (mesh.fsdp if shape else 1):
        yield _index(x, shape, mesh), x.cpu().numpy()


def on_whole(
    model: Any, shares: dict[str, Tensor], mesh: Mesh | None
) -> Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]:
    """Return what Muon needs to see whole matrices (`torch_impl.optimizer.Muon`).

    Args:
        shares: This process's share of each weight of the model, by name.
    """
    if mesh is None:
        return lambda f, x, p: f(x)
    from torch.distributed.tensor import DTensor

    weights = {shares[name]: weight for name, weight in model.named_parameters()}

    def apply(f: Callable[[Tensor], Tensor], x: Tensor, p: Tensor) -> Tensor:
        weight, shape = weights[p], tuple(weights[p].shape)
        layout = weight.device_mesh, weight.placements
        whole = DTensor.from_local(x, *layout, shape=weight.shape, stride=weight.stride()).full_tensor()
        return f(whole)[_index(x, shape, mesh)]

    return apply


def take_gradients(model: Any, shares: dict[str, Tensor], loss: Tensor, mesh: Mesh) -> tuple[Tensor, Tensor]:
    """Move each weight's gradient to this process's share of the weight.

    Args:
        loss: The loss of this process's rows.

    Returns:
        The loss of all rows, and the global norm of all gradients.
    """
    for name, p in model.named_parameters():
        if p.grad is not None:
            shares[name].grad, p.grad = p.grad.to_local(), None
    norm = global_norm(p.grad for p in shares.values() if p.grad is not None)
    # `mesh.data` processes hold each share. The squares are summed in float64, where they do not overflow.
    sums = torch.stack((loss.double(), norm.double().square() / mesh.data))
    distributed.all_reduce(sums)
    return sums[0], sums[1].sqrt()
