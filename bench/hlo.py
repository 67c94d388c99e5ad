"""The collectives of a compiled program, from its text: what XLA sends, and among which devices."""

import re
from itertools import combinations
from math import prod
from typing import NamedTuple

import numpy as np

from lm.accounting.network import PASSES
from lm.mesh import Mesh

AXES = ("data", "fsdp", "tensor")
_OPERATION = re.compile(rf" = (.*?) ({'|'.join(PASSES)}|all-to-all|collective-permute)(-start)?\(")
_IDS = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


class Sent(NamedTuple):
    """What a collective of the program sends."""

    kind: str
    axes: str
    """The axes of the mesh that its groups go along, such as `fsdp` or `data*fsdp`."""
    bytes: int
    """That each device sends, where arrays go round a ring."""


def sent(text: str, mesh: Mesh) -> list[Sent]:
    """What each device of a mesh sends in one run of a program without loops."""
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
        if start and kind == "all-gather":  # the operand stands beside the result
            arrays = arrays[len(arrays) // 2 :]
        if kind == "collective-permute":
            found.append(Sent(kind, "", max(arrays)))
            continue
        group = _first_group(line, mesh.size)
        n = len(group)
        whole = sum(arrays) * (n if kind == "reduce-scatter" else 1)
        passes = PASSES.get(kind, 1)  # type: ignore[call-overload]
        found.append(Sent(kind, groups.get(group, "?"), passes * whole * (n - 1) // n))
    return [s for s in found if s.bytes]


def _arrays(shape: str) -> list[tuple[str, str]]:
    return [(found[1], found[3]) for found in _ARRAY.finditer(shape)]


def _width(dtype: str) -> int:
    """Bytes of an element, such as of f32, bf16, s32, pred."""
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) // 8 if digits else 1


def _groups_of_axes(mesh: Mesh) -> dict[tuple[int, ...], str]:
    """The group of device 0 along each choice of axes."""
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
    """The devices of the group that device 0 is in, of each of the forms in which XLA writes groups."""
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
    """Devices numbered in a grid of these dimensions, whose axes are then put in another order."""
    sizes = tuple(map(int, dims.split(",")))
    ids = np.arange(prod(sizes)).reshape(sizes)
    return (ids.transpose(tuple(map(int, order.split(",")))) if order else ids).ravel()
