"""Time a training step on more and more devices, and count what it sends: `python -m bench scaling`.

JAX's devices are those of the machine, on a CPU as many virtual ones as a mesh needs; torch's are processes. Each mesh
is a contender of its own, that takes the same steps on the same batches; losses and gradient norms of the first two
are compared with those of one device, and where they differ by more than the budgets of lm/budgets.py, nothing
is timed. What a step of JAX sends is read from the program that XLA compiled, and stands beside the formula of
`lm accounting --mesh`, and so does the memory that XLA plans for a device.

On a CPU all devices share the same cores: a step on 8 of them is the same work on the same cores as on one. So its
time shows what the division costs, in smaller products, copies and waiting, and not what more machines would gain;
bytes and memory are those of any machines.
"""

import argparse
import inspect
import json
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench import report
from bench.children import Calls, Child, Failed, Unavailable, progress, quartiles, take_turns, timed
from bench.contenders import Work, load_ours
from bench.hlo import sent
from bench.machine import describe, flags
from bench.train_step import PACKAGES, parse_work, token_ids
from lm.accounting.memory import memory
from lm.accounting.network import collectives
from lm.budgets import BUDGETS, relative_error
from lm.cli.flags import Gather
from lm.config import TrainConfig
from lm.data.batch import Batch
from lm.files import refuse_existing
from lm.mesh import Mesh
from lm.tables import markdown_table
from tokenizer.errors import InputError
from tokenizer.machine import num_processors

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
    """Measure, print tables, write what was asked for; exit with 1 where parity fails or a mesh did."""
    parser = argparse.ArgumentParser(prog="python -m bench scaling", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--work", default="small/8/float32", help="SIZE/BATCH/DTYPE of the step, all meshes' together"
    )
    parser.add_argument("--mesh", nargs="+", action=Gather, default=MESHES, help="meshes, beside one device")
    parser.add_argument("--backends", nargs="+", action=Gather, choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--remat", action="store_true", help="compute blocks again in the backward pass")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, default=num_processors(), help="of all devices together")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every sample, the hardware, versions and flags")
    parser.add_argument("--markdown", type=Path, help="write the tables")
    parser.add_argument("--read", type=Path, help="measure nothing; print this --json of before")
    options = parser.parse_args(arguments)
    for path in (options.json, options.markdown):
        if path:
            refuse_existing(path)
    result = json.loads(options.read.read_bytes().decode()) if options.read else measure(options)
    if options.json:
        report.save(result, options.json)
    print(text(result))
    if options.markdown:
        options.markdown.write_text(text(result) + "\n", encoding="utf-8", newline="")
    if result["failures"]:
        sys.exit("\n".join(result["failures"]))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All that the tables show, and every sample behind it."""
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    work = parse_work(options.work, options.device, options.threads)
    config = work.config
    if options.remat:
        config = replace(config, model=replace(config.model, remat="block"))
    meshes = [Mesh(), *(Mesh.parse(text) for text in options.mesh)]
    for mesh in meshes:
        mesh.check(config)
    result: dict[str, Any] = {
        "command": "python -m bench scaling " + " ".join(sys.argv[2:]),
        "time": time.strftime("%Y-%m-%d %H:%M"),
        "machine": describe(PACKAGES),
        "flags": flags(),
        "work": work.name,
        "remat": config.model.remat,
        "device": options.device,
        "threads": options.threads,
        "tokens": config.batch_size * config.model.context_length,
        "rows": [],
        "failures": [],
    }
    for backend in options.backends:
        rows = [{"backend": backend, "mesh": str(mesh), "devices": mesh.size} for mesh in meshes]
        result["rows"] += rows
        measure_backend(backend, work, config, meshes, rows, options.rounds, result["failures"])
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
    """Fill the rows of one backend in: first steps, their parity, then rounds of turns."""
    groups: dict[str, Group] = {}
    try:
        for mesh, row in zip(meshes, rows, strict=True):
            progress(f"{backend}: first steps on {mesh}")
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
        asked = {name: partial(group.ask, "steps") for name, group in groups.items()}
        samples = take_turns(asked, rounds, 0.5, backend)
        for row in rows:
            if row["mesh"] in samples:
                row["rounds"] = samples[row["mesh"]]
    finally:
        for group in groups.values():
            group.close()


def compare(row: dict[str, Any], one: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """How far losses and gradient norms are from those of one device, beside the budgets."""
    budget = BUDGETS["float32" if row["dtype"] == "float32" else "bfloat16"]
    limits = {"losses": budget.model_forward, "grad_norms": budget.model_gradient}
    return {
        what: (relative_error(np.asarray(row[what]), np.asarray(one[what])), limit)
        for what, limit in limits.items()
    }


class Group:
    """The processes of one mesh: of JAX one for all devices, of torch one for each."""

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
    """A port of this machine that nobody listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


# What the processes do


def make_step(backend_name: Any, work: Work, config: TrainConfig, mesh: Mesh) -> Calls:
    """A mesh's answers: its first two steps, what its program sends, more steps."""
    at = mesh if mesh.size > 1 else None
    try:
        backend = load_ours(backend_name, config, at)
    except InputError as error:
        raise Unavailable(str(error)) from None
    state, step = backend.init_state(config, 0, at), backend.make_train_step(config, at)
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
        "steps": lambda count: timed(take, count),
        "program": lambda: read_program(step, state, batch, config, mesh),
    }


def compiled(step: Callable[..., Any], state: Any, batch: Batch) -> Any:
    """The program of a training step of JAX for this state and batch."""
    jitted = inspect.getclosurevars(inspect.unwrap(step)).nonlocals["jitted"]
    one = np.float32(1)
    return jitted.lower(state, (batch.model_inputs, batch.targets, batch.loss_mask), one, one).compile()


def read_program(
    step: Callable[..., Any], state: Any, batch: Batch, config: TrainConfig, mesh: Mesh
) -> dict[str, Any]:
    """Bytes that a device sends in a step and holds at once: by XLA's program, and by `lm accounting --mesh`."""
    program = compiled(step, state, batch)
    by_program: Counter[str] = Counter()
    for s in sent(program.as_text(), mesh):
        by_program[f"{s.axes}: {s.kind}"] += s.bytes
    by_formula: Counter[str] = Counter()
    for c in collectives(config, mesh):
        by_formula[f"{c.axis}: {c.kind}"] += c.sent
    plan = program.memory_analysis()
    held = plan.argument_size_in_bytes + plan.temp_size_in_bytes + plan.output_size_in_bytes
    sequences = config.batch_size // config.grad_accumulation // (mesh.data * mesh.fsdp)
    return {
        "sent": dict(by_program),
        "sent_by_formula": dict(by_formula),
        "memory": held - plan.alias_size_in_bytes,
        "memory_by_formula": memory(config, "jax", mesh).peak(sequences),
    }


# Tables


def text(result: dict[str, Any]) -> str:
    """All tables, in Markdown that a terminal shows well."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "jax", "numpy"))
    on_cpu = result["device"] == "cpu"
    lines = [
        f"{machine['processor']}, {result['threads']} threads in all, device {result['device']}; "
        f"Python {machine['python']}, {versions}; {result['time']}",
        f"`{result['command'].strip()}`: {result['work']}, remat {result['remat']}",
        "",
        markdown_table(
            ("mesh", "ms a step (quartiles)", "tokens/s", "x one device", "efficiency", "first s", ""),
            [_time(row, result, on_cpu) for row in result["rows"]],
        ),
        "",
        "On a CPU all devices share the same cores, and efficiency is what is left of one device's rate."
        if on_cpu
        else "Efficiency is the rate over that of one device times the devices.",
    ]
    programs = [row for row in result["rows"] if "sent" in row]
    if programs:
        head = (
            "a device of JAX",
            "sends, MB",
            "formula",
            "XLA / formula",
            "holds, MB",
            "formula",
            "XLA / formula",
        )
        lines += ["", markdown_table(head, [_program(row) for row in programs])]
        head = ("collectives", "XLA, MB", "formula, MB")
        lines += ["", markdown_table(head, [line for row in programs for line in _collectives(row)])]
    return "\n".join(lines)


def _name(row: dict[str, Any]) -> str:
    axes = [part for part in row["mesh"].split(",") if not part.endswith("=1")]
    return f"{row['backend']} {','.join(axes) or 'one device'}"


def _time(row: dict[str, Any], result: dict[str, Any], on_cpu: bool) -> tuple[str, ...]:
    one = next(r for r in result["rows"] if r["backend"] == row["backend"])
    if "rounds" not in row or "rounds" not in one:
        return (_name(row), *[""] * 5, row.get("unavailable", "no parity"))
    low, middle, high = quartiles(report.seconds(row))
    # Taken within a round.
    times = report.ratios(one, row)[1]
    efficiency = times if on_cpu else times / row["devices"]
    return (
        _name(row),
        f"{1e3 * middle:.4g} ({1e3 * low:.4g}-{1e3 * high:.4g})",
        f"{result['tokens'] / median(report.seconds(row)):,.0f}",
        f"{times:.2f}",
        f"{efficiency:.0%}",
        f"{row['first_seconds']:.1f}",
        "",
    )


def _program(row: dict[str, Any]) -> tuple[str, ...]:
    by_xla, formula = sum(row["sent"].values()), sum(row["sent_by_formula"].values())
    return (
        _name(row),
        f"{by_xla / 1e6:,.2f}",
        f"{formula / 1e6:,.2f}",
        f"{by_xla / formula:.3f}",
        f"{row['memory'] / 1e6:,.1f}",
        f"{row['memory_by_formula'] / 1e6:,.1f}",
        f"{row['memory'] / row['memory_by_formula']:.3f}",
    )


def _collectives(row: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            f"{_name(row)}: {what}",
            *(f"{row[key].get(what, 0) / 1e6:,.3f}" for key in ("sent", "sent_by_formula")),
        )
        for what in sorted(row["sent"] | row["sent_by_formula"])
    ]
