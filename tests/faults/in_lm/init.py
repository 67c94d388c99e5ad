"""Faults in lm/init.py: tables of positions, and initial weights."""

from typing import Any

import numpy as np

from tests.faults.fault import FAMILY, ROPE, fault, inside

INIT = "tests/lm/test_init.py"


@fault("RoPE's angles in float32", "lm.init.rope_tables", ROPE)
def _(original: Any) -> Any:
    def broken(theta: float, d_head: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        frequencies = theta ** (-np.arange(0, d_head, 2) / d_head)
        angles = positions[..., None].astype(np.float32) * frequencies.astype(np.float32)
        return np.cos(angles), np.sin(angles)

    return broken


@fault("RoPE's wavelengths end too soon", "lm.init.rope_tables", ROPE)
def _(original: Any) -> Any:
    """Divide the exponents by d_head - 2, so that the last one is 1."""
    return lambda theta, d_head, positions: original(
        theta ** (d_head / max(d_head - 2, 1)), d_head, positions
    )


@fault("sine and cosine change places", "lm.init.sinusoidal_table", FAMILY)
def _(original: Any) -> Any:
    return inside("lm.init.rope_tables", lambda tables: lambda *args: tables(*args)[::-1], original)


@fault("a learned position beyond the last is taken for it", "lm.init.position_tables", FAMILY)
def _(original: Any) -> Any:
    return lambda config, positions, length, *dtype: original(config, positions, length + 1, *dtype)


@fault("every block of a weight is drawn as the first is", "lm.init.InitialWeight._draw", INIT)
def _(original: Any) -> Any:
    return lambda self, number, rows: original(self, 0, rows)


@fault("a process draws its weights from the first block on", "lm.init.InitialWeight.__getitem__", INIT)
def _(original: Any) -> Any:
    def broken(self: Any, index: Any, /) -> np.ndarray:
        rows, *columns = (slice(None),) if index in (..., ()) else index
        start, stop, _ = rows.indices(self.shape[0])
        return original(self, (slice(0, stop), *columns))[start:]

    return broken
