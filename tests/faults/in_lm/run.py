"""Faults in lm/run: checkpoints."""

from typing import Any

from tests.faults.fault import MESH, fault


@fault("every process writes its rows where the leaf begins", "lm.run.leaves._write_slice", MESH)
def _(original: Any) -> Any:
    return lambda file, offset, shape, index, array: original(
        file, offset, shape, tuple(slice(0, None) for _ in index), array
    )
