"""Faults in lm/init.py: tables of positions, and initial weights."""

from dataclasses import replace
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


@fault("llama3's blend is reversed", "lm.init.scaled_frequencies", INIT)
def _(original: Any) -> Any:
    """Keep the low frequencies, and divide the high ones."""

    def broken(config: Any, frequencies: np.ndarray) -> np.ndarray:
        right = original(config, frequencies)
        return (
            frequencies + frequencies / config.rope_factor - right
            if config.rope_scaling == "llama3"
            else right
        )

    return broken


@fault("sliding layers' own RoPE is scaled", "lm.init.position_tables", INIT)
def _(original: Any) -> Any:
    def broken(config: Any, positions: np.ndarray, length: int, *rest: Any, **options: Any) -> Any:
        if options.get("layer_type") == "sliding" and config.sliding_rope_theta is not None:
            theta = config.sliding_rope_theta
            config = replace(config, rope_theta=theta, sliding_rope_theta=None)
        return original(config, positions, length, *rest, **options)

    return broken


@fault("weights of norms start at 1, and 1 is added", "lm.init.initial_weights", INIT)
def _(original: Any) -> Any:
    return lambda config, *args: original(replace(config, norm_gain="weight"), *args)
