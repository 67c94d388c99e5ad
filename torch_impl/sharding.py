"""Training in several processes (`lm train --mesh`): torch.distributed under torchrun, and fully_shard.

A process holds its share of each weight's first dimension, gathers whole weights a block at a time, and takes its share
of a batch's rows (Rajbhandari et al., 2020, ZeRO stage 3). Gradients are summed, since each row's loss has been
divided by the targets of all.
"""

import atexit
import os
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.utils.checkpoint import checkpoint

from lm.config import TrainConfig
from lm.mesh import Mesh, Processes
from tokenizer.errors import InputError
from torch_impl.functional import global_norm
from torch_impl.sequences import EncoderDecoder

_SILENCE = timedelta(minutes=2)
"""How long a step waits for a process that is silent; one that was killed is noticed at once."""
_SILENCE_OF_GPUS = timedelta(minutes=10)
"""The same, of collectives on GPUs, which wait there for products too."""
_PATIENCE = timedelta(minutes=30)
"""The same, where checkpoints are read and saved: it may be hashing a large one."""


def join(config: TrainConfig, mesh: Mesh) -> None:
    """Join the other processes that torchrun has started.

    Raises:
        InputError: there are not as many as the mesh takes.
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
    if distributed.is_initialized():  # by a run before this one
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
        distributed.init_process_group(backends, timeout=_silence(kind))
        atexit.register(distributed.destroy_process_group)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--mesh {mesh}: the processes cannot reach each other ({reason}); start them with torchrun"
        ) from None


def _silence(device: str) -> timedelta:
    return _SILENCE_OF_GPUS if device.startswith("cuda") else _SILENCE


def is_lost(error: Exception) -> bool:
    """Whether another process cannot be reached. Of gloo's errors, only the text says where they are from."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )


def processes() -> Processes:
    """The processes that `join` has joined."""
    patient, soon = (
        partial(_gather, distributed.new_group(backend="gloo", timeout=timeout))
        for timeout in (_PATIENCE, _SILENCE)
    )
    return Processes(distributed.get_rank(), distributed.get_world_size(), patient, is_lost, soon)


def _gather(group: Any, value: int) -> list[int]:
    values = [torch.zeros((), dtype=torch.int64) for _ in range(distributed.get_world_size())]
    distributed.all_gather(values, torch.full_like(values[0], value), group)
    return torch.stack(values).tolist()


def total(numbers: Tensor) -> Tensor:
    """The sum of each number over all processes, in place."""
    distributed.all_reduce(numbers)
    return numbers


def shard(model: Any, mesh: Mesh, device: str) -> None:
    """Have each process hold its share of a model made without memory (device "meta"); what it holds is to be filled.

    The root's weights (embeddings, last norm and head) are gathered together, those of a block by themselves.
    """
    # A second to import, for what only a mesh needs.
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    ranks = torch.arange(mesh.size).view(mesh.data, mesh.fsdp)
    groups = [
        distributed.new_subgroups_by_enumeration(axis.tolist(), timeout=_silence(device))[0]
        for axis in (ranks.T, ranks)
    ]
    devices = DeviceMesh.from_group(groups, torch.device(device).type, ranks, mesh_dim_names=("data", "fsdp"))
    stacks = [model.encoder, model.decoder] if isinstance(model, EncoderDecoder) else [model]
    for module in (*(block for stack in stacks for block in stack.layers), model):
        sharded = fully_shard(module, mesh=devices)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
    model.to_empty(device=device)
    for stack in stacks:
        stack.make_tables()
        if stack.config.remat == "block":
            stack.recompute = _recomputed


def _recomputed(block: nn.Module, *args: Any) -> Tensor:
    """`torch_impl.model.recomputed`, with weights that are gathered again for the backward pass."""
    return checkpoint(block, *args, use_reentrant=False, preserve_rng_state=False)


def held(parameter: Any) -> Tensor:
    """What this process holds of a sharded weight, in the memory that the weight has."""
    with torch.no_grad():
        share: Tensor = parameter.to_local().detach()
    return share


def held_rows(mesh: Mesh, rows: int, count: int) -> slice:
    """Which of a weight's rows this process holds, as torch.chunk deals them out: the last processes fewer, or none."""
    start = min(distributed.get_rank() % mesh.fsdp * -(-rows // mesh.fsdp), rows)
    return slice(start, start + count)


def is_to_save(mesh: Mesh, shape: tuple[int, ...]) -> bool:
    """Whether this process saves what it holds of a leaf: one of those that hold the same does."""
    return distributed.get_rank() < (mesh.fsdp if shape else 1)


def batch_rows(mesh: Mesh, rows: int) -> slice:
    """Which of a micro-batch's rows this process takes."""
    share = rows // mesh.size
    start = distributed.get_rank() * share
    return slice(start, start + share)


def take_gradients(model: Any, held: dict[str, Tensor], loss: Tensor, mesh: Mesh) -> tuple[Tensor, Tensor]:
    """Have what this process holds of each weight take its gradient.

    Returns:
        The loss, of which each process has its rows' part, and the gradients' global norm.
    """
    for name, p in model.named_parameters():
        if p.grad is not None:
            held[name].grad, p.grad = p.grad.to_local(), None
    norm = global_norm(p.grad for p in held.values() if p.grad is not None)
    # Each share is held by as many processes as there are replicas. In float64, where squares do not overflow.
    parts = torch.stack((loss.double(), norm.double().square() / mesh.data))
    loss_of_all, square = total(parts)
    return loss_of_all, square.sqrt()
