"""Several devices, and several processes (`lm train --mesh`): jax.distributed, and where each array lies.

XLA divides the programs themselves, by where their arguments are to lie, and adds what moves between devices.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from jaxtyping import Array

from jax_impl.layers import Params
from jax_impl.model import at
from lm.config import TrainConfig
from lm.mesh import Mesh, Processes
from lm.run.checkpoint import Index, Leaf
from tokenizer.errors import InputError


def join() -> None:
    """Join the processes of JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or of a job step of SLURM.

    Raises:
        InputError: they do not come together.
    """
    several = "SLURM_STEP_NODELIST" in os.environ and os.environ.get("SLURM_NTASKS", "1") != "1"
    if jax.distributed.is_initialized() or not (several or "JAX_COORDINATOR_ADDRESS" in os.environ):
        return

    mend = (
        "start each by srun, or with JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
    )

    def give_up() -> None:
        print(f"lm: the processes of --mesh have not come together in a minute; {mend}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(2)

    # JAX would abort, some seconds later, and print a trace.
    late = threading.Timer(60, give_up)
    late.daemon = True
    late.start()
    try:
        count, index = (
            int(os.environ[name]) if name in os.environ else None
            for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
        )
        # It would take SIGTERM from the loop, which saves.
        jax.config.update("jax_enable_preemption_service", False)
        # A process that sends no sign of life for so many seconds has gone.
        jax.distributed.initialize(
            num_processes=count,
            process_id=index,
            initialization_timeout=90,
            heartbeat_timeout_seconds=30,
            shutdown_timeout_seconds=30,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"the processes of --mesh do not come together ({reason}); {mend}") from None
    finally:
        late.cancel()
    if jax.process_index() > 0:
        # Only the first process prints, and Gloo prints its connections.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def is_lost(error: Exception) -> bool:
    """Whether another process cannot be reached."""
    # Reading an array whose computation failed is a ValueError on a CPU. Memory that runs short is not among these.
    codes = ("UNKNOWN", "UNAVAILABLE", "ABORTED", "INTERNAL", "DEADLINE_EXCEEDED", "CANCELLED")
    failed = isinstance(error, jax.errors.JaxRuntimeError | ValueError)
    return failed and str(error).partition(":")[0] in codes


def processes() -> Processes:
    """This process and those that `join` has joined, by the collectives of their devices."""
    return Processes(jax.process_index(), jax.process_count(), _gather, is_lost)


def _gather(value: int) -> list[int]:
    return multihost_utils.process_allgather(np.array([value], np.int32)).ravel().tolist()


def device(config: TrainConfig) -> jax.Device:
    """The one of a run without a mesh.

    Raises:
        InputError: it is not there.
    """
    platform, _, index = config.device.partition(":")
    try:
        return jax.devices(platform)[int(index or 0)]
    except (RuntimeError, IndexError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device '{config.device}' cannot be used by jax ({reason}); try --device cpu"
        ) from None


def devices(config: TrainConfig, mesh: Mesh) -> jax.sharding.Mesh:
    """JAX's own mesh, of all devices of all processes.

    Raises:
        InputError: there are not as many as the mesh takes.
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
    """Where a leaf of this name and shape lies."""
    if mesh is None:
        one = SingleDeviceSharding(device(config))
        return lambda name, shape: one
    several = devices(config, mesh)
    return lambda name, shape: NamedSharding(several, PartitionSpec(*mesh.split(name, shape)))


def batch_sharding(config: TrainConfig, mesh: Mesh, axis: int) -> NamedSharding:
    """Of arrays whose axis of this number counts rows."""
    return NamedSharding(devices(config, mesh), PartitionSpec(*(None,) * axis, ("data", "fsdp")))


def with_whole_embeddings(params: Params, rows: NamedSharding | None) -> Params:
    """The weights, of which each device of a mesh has all embeddings, to look up the tokens of its rows."""
    if rows is None:
        return params
    whole = NamedSharding(rows.mesh, PartitionSpec())
    return jax.tree_util.tree_map_with_path(
        lambda path, p: at(p, whole) if "embeddings" in jax.tree_util.keystr(path) else p, params
    )


def put(leaf: Leaf, where: Sharding) -> Array:
    """A leaf, of which each device of this process is given its slice. What holds all of them is read once."""
    indices = where.addressable_devices_indices_map(leaf.shape)
    places = [
        [range(size)[s] for s, size in zip(index or (), leaf.shape, strict=True)]
        for index in indices.values()
    ]
    box = [slice(min(r.start for r in axis), max(r.stop for r in axis)) for axis in zip(*places, strict=True)]
    held = leaf[tuple(box)]

    def within(place: list[range]) -> Index:
        return tuple(slice(r.start - b.start, r.stop - b.start) for r, b in zip(place, box, strict=True))

    # jnp.array copies, where device_put may keep a view of the caller's memory, whatever may_alias says.
    slices = [
        jnp.array(held[within(place)], device=device) for device, place in zip(indices, places, strict=True)
    ]
    return jax.make_array_from_single_device_arrays(leaf.shape, where, slices)


def slices_to_save(leaf: Array) -> Iterator[tuple[Index, np.ndarray]]:
    """The slices of a leaf on this process's devices; copies of a slice once among all processes."""
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0:
            yield shard.index, np.asarray(shard.data)
