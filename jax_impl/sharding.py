"""Devices and processes (`lm train --mesh`): joining processes, and the device or the shards of each array.

XLA partitions the programs itself, by the shardings of their arguments, and adds the communication between devices.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from jaxtyping import Array

from jax_impl.dtypes import Params
from jax_impl.trees import nested
from lm.config import TrainConfig
from lm.init import parameter_shapes
from lm.mesh import Mesh, Processes
from lm.run.leaves import Index, Leaf
from tokenizer.errors import InputError


def join() -> None:
    """Join the processes that JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID or a SLURM step describe.

    Raises:
        InputError: the processes cannot reach each other.
    """
    several = "SLURM_STEP_NODELIST" in os.environ and os.environ.get("SLURM_NTASKS", "1") != "1"
    if jax.distributed.is_initialized() or not (several or "JAX_COORDINATOR_ADDRESS" in os.environ):
        return

    remedy = (
        "start each by srun, or with JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
    )

    def give_up() -> None:
        print(
            f"lm: the processes of --mesh have not reached each other in a minute; {remedy}", file=sys.stderr
        )
        sys.stderr.flush()
        os._exit(2)

    # Without this timer JAX would abort some seconds later and print a stack trace.
    late = threading.Timer(60, give_up)
    late.daemon = True
    late.start()
    try:
        count, index = (
            int(os.environ[name]) if name in os.environ else None
            for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
        )
        # JAX's preemption service would take SIGTERM away from the training loop, which saves on SIGTERM.
        jax.config.update("jax_enable_preemption_service", False)
        # A process without a heartbeat for this long is lost.
        jax.distributed.initialize(
            num_processes=count,
            process_id=index,
            initialization_timeout=90,
            heartbeat_timeout_seconds=30,
            shutdown_timeout_seconds=30,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"the processes of --mesh cannot reach each other ({reason}); {remedy}") from None
    finally:
        late.cancel()
    if jax.process_index() > 0:
        # Only the first process prints, and Gloo prints its connections.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def is_lost(error: Exception) -> bool:
    """Return whether the error says that another process cannot be reached."""
    # On a CPU, reading an array whose computation failed raises a ValueError. Running out of memory has another code.
    codes = ("UNKNOWN", "UNAVAILABLE", "ABORTED", "INTERNAL", "DEADLINE_EXCEEDED", "CANCELLED")
    failed = isinstance(error, jax.errors.JaxRuntimeError | ValueError)
    return failed and str(error).partition(":")[0] in codes


def processes() -> Processes:
    """Return this process's place among those that `join` has joined."""
    if jax.process_count() == 1:
        return Processes()
    return Processes(jax.process_index(), jax.process_count(), gather, is_lost)


def gather(value: int) -> list[int]:
    """Return every process's value."""
    return multihost_utils.process_allgather(np.array([value], np.int32)).ravel().tolist()


def device(config: TrainConfig) -> jax.Device:
    """Return the device of a run without a mesh.

    Raises:
        InputError: the device is not there.
    """
    platform, _, index = config.device.partition(":")
    try:
        return jax.devices(platform)[int(index or 0)]
    except (RuntimeError, IndexError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device '{config.device}' cannot be used by jax ({reason}); try --device cpu"
        ) from None


def same_bits(config: TrainConfig) -> dict[str, bool]:
    """Return the compiler options that make a program deterministic.

    By default a GPU adds in any order, and each process times the kernels and takes the fastest.
    """
    return {"xla_gpu_deterministic_ops": True} if config.device.startswith(("cuda", "gpu", "rocm")) else {}


def device_mesh(config: TrainConfig, mesh: Mesh) -> jax.sharding.Mesh:
    """Return JAX's mesh of all devices of all processes.

    Raises:
        InputError: the number of devices is not the mesh's size.
    """
    try:
        found = jax.devices(config.device)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device '{config.device}' cannot be used by jax ({reason})") from None
    if len(found) != mesh.size:
        raise InputError(
            f"--mesh {mesh} takes {mesh.size} devices, and there are {len(found)}, in {jax.process_count()} "
            "processes; change --mesh, start more processes, or on a CPU set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={mesh.size // jax.process_count() or 1}"
        )
    sizes = mesh.data, mesh.fsdp, mesh.tensor
    return jax.make_mesh(sizes, ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3, devices=found)


def shardings(config: TrainConfig, mesh: Mesh | None) -> Callable[[str, tuple[int, ...]], Sharding]:
    """Return a function of a leaf's name and shape that gives the leaf's sharding."""
    if mesh is None:
        one = SingleDeviceSharding(device(config))
        return lambda name, shape: one
    several = device_mesh(config, mesh)
    return lambda name, shape: NamedSharding(several, PartitionSpec(*mesh.split(name, shape)))


def params_shardings(config: TrainConfig, mesh: Mesh) -> Params:
    """Return the sharding of each weight, as a tree like the weights."""
    place = shardings(config, mesh)
    return nested({name: place(name, shape) for name, shape in parameter_shapes(config.model).items()})


def constrain(x: Array, sharding: Sharding | None) -> Array:
    """Have XLA shard x on a mesh as `sharding` says; return x itself without a mesh."""
    return x if sharding is None else jax.lax.with_sharding_constraint(x, sharding)


def gather_embeddings(params: Params, rows: NamedSharding | None) -> Params:
    """Gather all embeddings on each device of a mesh, which looks up the tokens of its rows; return all weights."""
    if rows is None:
        return params
    whole = NamedSharding(rows.mesh, PartitionSpec())
    return jax.tree_util.tree_map_with_path(
        lambda path, p: constrain(p, whole) if "embeddings" in jax.tree_util.keystr(path) else p, params
    )


def put(leaf: Leaf, sharding: Sharding) -> Array:
    """Put a leaf's slices on this process's devices. The leaf is read once, in the smallest box around the slices.

    On a CPU the result may be a view of the leaf's memory, whatever `may_alias` says.
    """
    indices = sharding.addressable_devices_indices_map(leaf.shape)
    places = [
        [range(size)[s] for s, size in zip(index or (), leaf.shape, strict=True)]
        for index in indices.values()
    ]
    box = [slice(min(r.start for r in axis), max(r.stop for r in axis)) for axis in zip(*places, strict=True)]
    local = leaf[tuple(box)]

    def in_box(place: list[range]) -> Index:
        return tuple(slice(r.start - b.start, r.stop - b.start) for r, b in zip(place, box, strict=True))

    slices = [
        jax.device_put(local[in_box(place)], device) for device, place in zip(indices, places, strict=True)
    ]
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, slices)


def batch_rows(config: TrainConfig, mesh: Mesh, axis: int) -> NamedSharding:
    """Return the sharding of arrays whose axis number `axis` is the batch."""
    return NamedSharding(device_mesh(config, mesh), PartitionSpec(*(None,) * axis, ("data", "fsdp")))


def slices_to_save(leaf: Array) -> Iterator[tuple[Index, np.ndarray]]:
    """Yield the slices of a leaf that this process saves. A slice with copies on several devices is saved once."""
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0:
            yield shard.index, np.asarray(shard.data)
