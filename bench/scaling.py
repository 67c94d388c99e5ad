"""Time a training step on more and more devices, and count the bytes that it sends: `python -m bench scaling`.

JAX takes the machine's devices; on a CPU it takes as many virtual devices as a mesh needs. In torch each device is a
process. Each mesh is a contender of its own, and all take the same steps on the same batches. Losses and gradient norms
of the first two steps are compared with those of one device. If they differ by more than the budgets of lm/budgets.py,
nothing is timed. The bytes that JAX sends and the memory that XLA plans for a device are read from the compiled program
and stand beside the formulas of `lm accounting --mesh`.

On a CPU all devices share the same cores, so a step on 8 devices is the same work on the same cores as on one. Its time
shows what the division costs (smaller products, copies, waiting), not what more machines would gain. Bytes and memory
are those of any machines.
"""

import argparse
import os
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import options, report, scaling_report
from bench.children import Calls, Child, Failed, Unavailable, show_progress, take_turns, time_runs
from bench.contenders import Work, load_ours
from bench.machine import describe, flags
from bench.program import read_program
from bench.train_step import PACKAGES, parse_work, token_ids
from lm.budgets import BUDGETS, relative_error
from lm.cli.flags import Gather
from lm.config import TrainConfig
from lm.data.batch import Batch
from lm.mesh import Mesh
from tokenizer.errors import InputError

MESHES = (
    "data=2",
    "data=4",
    "data=8",
    "fsdp=2",
    "fsdp=4",
    "fsdp=8",
    "tensor=2",
    "tensor=4",
    "data=2,fsdp=2,tensor=2",
)
BACKENDS = ("jax", "torch")


def main(arguments: list[str]) -> None:
    """Measure, print tables, and write files on demand. Exit with 1 if parity or a mesh failed."""
    parser = options.new_parser("scaling", str(__doc__), rounds=5)
    parser.add_argument(
        "--work",
        default="small/8/float32",
        help="the step that each mesh divides, as SIZE/BATCH/DTYPE (default: small/8/float32)",
    )
    parser.add_argument(
        "--mesh",
        nargs="+",
        action=Gather,
        default=MESHES,
        help="meshes to time after one device (default: nine)",
    )
    parser.add_argument(
        "--backends", nargs="+", action=Gather, choices=BACKENDS, default=BACKENDS, help="default: both"
    )
    parser.add_argument("--remat", action="store_true", help="recompute blocks in the backward pass")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    options.add_json(parser)
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    parser.add_argument("--read", type=Path, help="measure nothing, and print the results of this JSON file")
    given = options.parse(parser, arguments)
    result = report.publish(given, measure, scaling_report.text)
    if result["failures"]:
        sys.exit("\n".join(result["failures"]))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that the tables show, and return it with every sample."""
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    work = parse_work(given.work, given.device, given.threads)
    config = work.config
    if given.remat:
        config = replace(config, model=replace(config.model, remat="block"))
    meshes = [Mesh(), *(Mesh.parse(text) for text in given.mesh)]
    for mesh in meshes:
        mesh.check(config)
    result: dict[str, Any] = {
        "command": "python -m bench scaling " + " ".join(sys.argv[2:]),
        "time": time.strftime("%Y-%m-%d %H:%M"),
        "machine": describe(PACKAGES),
        "flags": flags(),
        "work": work.name,
        "remat": config.model.remat,
        "device": given.device,
        "threads": given.threads,
        "tokens": config.batch_size * config.model.context_length,
        "rows": [],
        "failures": [],
    }
    for backend in given.backends:
        rows = [{"backend": backend, "mesh": str(mesh), "devices": mesh.size} for mesh in meshes]
        result["rows"] += rows
        measure_backend(backend, work, config, meshes, rows, given.rounds, result["failures"])
    return result


def measure_backend(
    backend: str,
    work: Work,
    config: TrainConfig,
    meshes: list[Mesh],
    rows: list[dict[str, Any]],
    rounds: int,
    failures: list[str],
) -> None:
    """Fill in the rows of one backend: first steps, their parity, then the timed rounds."""
    groups: dict[str, Group] = {}
    try:
        for mesh, row in zip(meshes, rows, strict=True):
            show_progress(f"{backend}: first steps on {mesh}")
            group = Group(backend, work, config, mesh)
            groups[str(mesh)] = group
            try:
                row |= group.ask("first")
            except (Unavailable, Failed) as reason:
                row["unavailable"] = str(reason)
                if isinstance(reason, Failed):
                    failures.append(f"{backend} on {mesh} failed: {reason}")
                groups.pop(str(mesh)).close()
                continue
            row["errors"] = compare(row, rows[0])
            failures += [
                f"{backend} on {mesh}: no parity: {what} differs by {error:.1e}, more than {limit:.0e}"
                for what, (error, limit) in row["errors"].items()
                if not error <= limit
            ]
            if backend == "jax" and mesh.size > 1:
                row |= group.ask("program")
        if failures:
            return
        contenders = {name: partial(group.ask, "steps") for name, group in groups.items()}
        samples = take_turns(contenders, rounds, 0.5, backend)
        for row in rows:
            if row["mesh"] in samples:
                row["rounds"] = samples[row["mesh"]]
    finally:
        for group in groups.values():
            group.close()


def compare(row: dict[str, Any], one: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the errors of losses and gradient norms against those of one device, each with its budget."""
    budget = BUDGETS["float32" if row["dtype"] == "float32" else "bfloat16"]
    limits = {"losses": budget.model_forward, "grad_norms": budget.model_gradient}
    return {
        what: (relative_error(np.asarray(row[what]), np.asarray(one[what])), limit)
        for what, limit in limits.items()
    }


class Group:
    """The processes of one mesh: JAX has one for all devices, torch one for each device."""

    def __init__(self, backend: str, work: Work, config: TrainConfig, mesh: Mesh) -> None:
        count = mesh.size if backend == "torch" else 1
        config = replace(config, threads=max(1, work.threads // count))
        before = dict(os.environ)
        os.environ |= {"NPROC": str(work.threads), "OMP_NUM_THREADS": str(config.threads)}
        if work.device != "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(mesh.size)))
        elif backend == "jax":
            os.environ["XLA_FLAGS"] = (
                f"{before.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={mesh.size}"
            )
        if count > 1:
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
            os.environ |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        self._children = []
        for rank in range(count):
            if count > 1:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            self._children.append(Child(make_step, backend, work, config, mesh))
        os.environ.clear()
        os.environ |= before
        self._threads = ThreadPoolExecutor(count)

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call a function in all processes at once, and return what the first returns.

        Raises:
            Unavailable, Failed
        """
        answers = [self._threads.submit(child.ask, name, *arguments) for child in self._children]
        first, *_ = [answer.result() for answer in answers]
        return first

    def close(self) -> None:
        """End the processes."""
        for child in self._children:
            child.close()
        self._threads.shutdown()


def free_port() -> int:
    """Return a port of this machine that no process listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


# What the child processes do


def make_step(backend_name: Any, work: Work, config: TrainConfig, mesh: Mesh) -> Calls:
    """Return the functions of a process: its first two steps, more steps, and what its program sends."""
    used_mesh = mesh if mesh.size > 1 else None
    try:
        backend = load_ours(backend_name, config, used_mesh)
    except InputError as error:
        raise Unavailable(str(error)) from None
    state, step = backend.init_state(config, 0, used_mesh), backend.make_train_step(config, used_mesh)
    ids = token_ids(work)[None]
    batch = Batch(ids[..., :-1].copy(), ids[..., 1:].copy())

    def take() -> tuple[float, float]:
        nonlocal state
        state, metrics = step(state, batch, config.optimizer.learning_rate)
        return float(metrics["loss"]), float(metrics["grad_norm"])

    def first() -> dict[str, Any]:
        start = time.perf_counter()
        taken = [take()]
        seconds = time.perf_counter() - start
        taken.append(take())
        losses, norms = zip(*taken, strict=True)
        return {"first_seconds": seconds, "losses": losses, "grad_norms": norms, "dtype": work.dtype}

    return {
        "first": first,
        "steps": lambda count: time_runs(take, count),
        "program": lambda: read_program(step, state, batch, config, mesh),
    }
