"""Faults in lm/mesh.py: what each device of a mesh holds, and processes that wait for each other."""

from dataclasses import replace
from typing import Any

from tests.faults.fault import MESH, fault


@fault("fsdp and tensor divide the matrices after the heads the wrong way round", "lm.mesh.Mesh.split", MESH)
def _(original: Any) -> Any:
    def broken(self: Any, name: str, shape: tuple[int, ...]) -> tuple[str | None, ...]:
        axes = original(self, name, shape)
        return axes[::-1] if "tensor" in axes else axes

    return broken


@fault("a process publishes what another could not write", "lm.mesh.Processes.together", MESH)
def _(original: Any) -> Any:
    """Wait for the other processes, but take each of them for one that has succeeded."""
    return lambda self: original(replace(self, gather=lambda value: [0 for _ in self.gather(value)]))
