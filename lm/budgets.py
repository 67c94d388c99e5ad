"""How far torch, JAX and the oracle may differ, and how differences are measured: the only table of tolerances.

Errors are norm-wise, ||a - b|| / ||b||, because an element that is small by cancellation has no relative accuracy. The
table holds while attention scores and logits spread by at most SPREAD. Beyond that, the softmax of any implementation
amplifies every rounding error. The bound is then epsilon times the measured condition number, and the error of a
gradient is relative to the norm of the incoming gradient, because the gradient of a saturated softmax is small by
cancellation.
"""

from typing import Literal, NamedTuple

import numpy as np

Dtype = Literal["float64", "float32", "bfloat16"]
"""Type of the activations. With bfloat16 activations the weights are float32."""


class Budget(NamedTuple):
    """Largest norm-wise errors."""

    forward: float
    gradient: float
    model_forward: float
    model_gradient: float


BUDGETS: dict[Dtype, Budget] = {
    "float64": Budget(1e-13, 1e-12, 1e-12, 1e-11),
    "float32": Budget(1e-6, 2e-6, 5e-6, 2e-5),
    "bfloat16": Budget(8e-3, 2e-2, 2e-2, 5e-2),
}
RUN: dict[Literal["float64", "float32"], float] = {"float64": 1e-12, "float32": 1e-5}
"""Largest relative errors of losses and final weights between torch and JAX after 300 steps at lr 1e-3."""
ULPS = 8.0
"""Largest error in units in the last place, for element-wise functions in any dtype and for one optimizer step."""
SPREAD = 10.0
"""Largest difference between two attention scores, or two logits, up to which BUDGETS holds."""
EPSILON: dict[Dtype, float] = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7}
SMALLEST_NORMAL: dict[Dtype, float] = {"float64": 2.0**-1022, "float32": 2.0**-126, "bfloat16": 2.0**-126}
ZERO = 1e-10
"""A gradient counts as zero if its norm is less than this share of the incoming gradient's norm."""


def relative_error(
    a: np.ndarray, b: np.ndarray, flow: float = 0.0, exact: np.ndarray | None = None, zero: float = ZERO
) -> float:
    """Return ||a - b|| / ||b||, or ||a - b|| / flow if b is a gradient that counts as zero.

    Args:
        flow: Norm of the incoming gradient.
        exact: The exact value of b, which decides whether it counts as zero. If not given: b.
        zero: b counts as zero if its norm is at most this share of `flow`.
    """
    if not np.array_equal(np.isnan(a), np.isnan(b)) or a.shape != b.shape:
        return np.inf
    difference, norm = float(np.linalg.norm(a - b)), float(np.linalg.norm(b if exact is None else exact))
    if norm <= zero * flow:
        norm = flow
    if not difference:
        return 0.0
    return difference / norm if norm else np.inf


def ulps(a: np.ndarray, b: np.ndarray, dtype: Dtype) -> float:
    """Return the largest |a - b| in units of b's last place. Denormals count as zero, as in XLA on a CPU."""
    a, b = (np.where(np.abs(x) < SMALLEST_NORMAL[dtype], 0.0, x) for x in (a, b))
    _, exponent = np.frexp(np.maximum(np.abs(b), SMALLEST_NORMAL[dtype]))
    off = np.abs(a - b) / np.ldexp(EPSILON[dtype], exponent - 1)
    return float(np.max(np.nan_to_num(off, nan=np.inf), initial=0.0))


def as_dtype(x: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Return the numbers nearest to x that `dtype` can hold (ties to even), as float64."""
    if dtype != "bfloat16":
        return x.astype(dtype).astype(np.float64)
    bits = x.astype(np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return np.asarray(rounded & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
