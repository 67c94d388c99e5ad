"""Faults in lm/dropout.py: the hash that decides which elements are dropped."""

from typing import Any

import numpy as np

from tests.faults.fault import DROPOUT, fault


@fault("rows have one key", "lm.dropout.hashes", DROPOUT)
def _(original: Any) -> Any:
    def broken(seed: int, place: str, step: int, rows_B: np.ndarray, size: int) -> np.ndarray:
        from lm.dropout import mix, step_keys

        first, _ = step_keys(seed, place, step)
        first_B = mix(rows_B.astype(np.uint32) ^ np.array(first, np.int32).view(np.uint32))
        return mix(np.arange(size, dtype=np.uint32) ^ first_B[:, None]).view(np.int32)

    return broken
