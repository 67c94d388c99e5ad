"""The program that XLA compiles for a training step: the bytes that a device sends, and the memory that it holds."""

import inspect
import re
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from math import prod
from typing import Any, NamedTuple

import numpy as np

from lm.accounting.memory import memory
from lm.accounting.network import PASSES, collectives
from lm.config import TrainConfig
from lm.data.batch import Batch
from lm.mesh import Mesh

AXES = ("data", "fsdp", "tensor")
_OPERATION = re.compile(rf" = (.*?) ({'|'.join(PASSES)}|all-to-all|collective-permute)(-start)?\(")
_IDS = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


class Sent(NamedTuple):
    """What one collective operation of the program sends."""

    kind: str
    axes: str
    """Mesh axes along which its groups lie, such as `fsdp` or `data*fsdp`."""
    bytes: int
    """Bytes that each device sends if arrays travel around a ring."""


def compile_step(step: Callable[..., Any], state: Any, batch: Batch) -> Any:
    """Return the program of JAX's training step for this state and batch."""
    jitted = inspect.getclosurevars(inspect.unwrap(step)).nonlocals["jitted"]
    one = np.float32(1)
    return jitted.lower(state, (batch.model_inputs, batch.targets, batch.loss_mask), one, one).compile()


def read_program(
    step: Callable[..., Any], state: Any, batch: Batch, config: TrainConfig, mesh: Mesh
) -> dict[str, Any]:
    """Return the bytes that a device sends in a step and holds at once, by this program and by lm.accounting."""
    program = compile_step(step, state, batch)
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


def sent(text: str, mesh: Mesh) -> list[Sent]:
    """Return what each device of a mesh sends in one run of a program without loops.

    Args:
        text: The program in XLA's HLO notation.
    """
    passes: dict[str, int] = {str(kind): count for kind, count in PASSES.items()}
    groups = _groups_of_axes(mesh)
    found = []
    for line in text.splitlines():
        operation = _OPERATION.search(line)
        if not operation:
            continue
        result, kind, start = operation.groups()
        arrays = [
            prod(map(int, dims.split(","))) * _width(t) if dims else _width(t) for t, dims in _arrays(result)
        ]
        if start and kind == "all-gather":  # the result includes the operand
            arrays = arrays[len(arrays) // 2 :]
        if kind == "collective-permute":
            found.append(Sent(kind, "", max(arrays)))
            continue
        group = _first_group(line, mesh.size)
        n = len(group)
        whole = sum(arrays) * (n if kind == "reduce-scatter" else 1)
        found.append(Sent(kind, groups.get(group, "?"), passes.get(kind, 1) * whole * (n - 1) // n))
    return [s for s in found if s.bytes]


def _arrays(shape: str) -> list[tuple[str, str]]:
    return [(found[1], found[3]) for found in _ARRAY.finditer(shape)]


def _width(dtype: str) -> int:
    """Return the bytes of an element of a type such as f32, bf16, s32 or pred."""
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) // 8 if digits else 1


def _groups_of_axes(mesh: Mesh) -> dict[tuple[int, ...], str]:
    """Return the group of device 0 along each choice of axes."""
    ids = np.arange(mesh.size).reshape(mesh.data, mesh.fsdp, mesh.tensor)
    groups: dict[tuple[int, ...], str] = {}
    for count in (1, 2, 3):
        for axes in combinations(range(3), count):
            index = tuple(slice(None) if axis in axes else 0 for axis in range(3))
            groups.setdefault(
                tuple(sorted(ids[index].ravel().tolist())), "*".join(AXES[axis] for axis in axes)
            )
    return groups


def _first_group(line: str, devices: int) -> tuple[int, ...]:
    """Return the group of device 0, from any of the three notations in which XLA writes groups."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return tuple(sorted(map(int, listed[1].split(","))))
    if iota := re.search(rf"replica_groups=\[(\d+),(\d+)\]<={_IDS}", line):
        count, size, *order = iota.groups()
        return tuple(sorted(_ids(*order).reshape(int(count), int(size))[0].tolist()))
    if named := re.search(
        rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\({_IDS}\))?(?: \{{([^}}]*)\}})?", line
    ):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        along = sizes if named[4] is None else re.findall(r"'(\w+)'", named[4])
        ids = _ids(named[2] or str(devices), named[3]).reshape(tuple(sizes.values()))
        index = tuple(slice(None) if name in along else 0 for name in sizes)
        return tuple(sorted(ids[index].ravel().tolist()))
    return tuple(range(devices))


def _ids(dims: str, order: str | None) -> np.ndarray:
    """Number devices in a grid of these dimensions, transpose its axes to this order, and flatten it."""
    sizes = tuple(map(int, dims.split(",")))
    ids = np.arange(prod(sizes)).reshape(sizes)
    return (ids.transpose(tuple(map(int, order.split(",")))) if order else ids).ravel()
