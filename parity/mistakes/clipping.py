"""Mistakes of gradient clipping."""

import math
from functools import partial

import numpy as np

from parity.mistakes.mistake import mistake
from parity.oracle import clip_gradients, global_norm
from parity.oracle.gradients import Weights

Clipped = tuple[dict[str, np.ndarray], float]
_clip = partial(
    mistake,
    replaces="clip_gradients",
    formula="norm = sqrt(sum of all squares of all gradients); if norm > max_norm: g *= max_norm / (norm + 1e-6)",
    source="Pascanu, Mikolov and Bengio, 2013, algorithm 1; the course's assignment 1, section 4.5",
)
_BOUNDARY = "Clipping at its boundaries"
_NORM = "The norm of all gradients together"


def _norm(gradients: Weights) -> float:
    return float(global_norm({name: g.ravel() for name, g in gradients.items()}))


def _scaled(gradients: Weights, norm: float, max_norm: float) -> Clipped:
    """Clip by a norm of another kind."""
    factor = max_norm / (norm + 1e-6) if norm > max_norm else 1.0
    return {name: g * factor for name, g in gradients.items()}, norm


@_clip("clipping: each tensor by its own norm", pitfall=_NORM)
def _(gradients: Weights, max_norm: float) -> Clipped:
    """Each gradient is clipped by its own norm. The direction of the whole gradient changes, and its norm may still
    exceed the limit."""
    return {name: clip_gradients({name: g}, max_norm)[0][name] for name, g in gradients.items()}, _norm(
        gradients
    )


@_clip("clipping: each element by value", pitfall=_NORM)
def _(gradients: Weights, max_norm: float) -> Clipped:
    """Each element is clamped to [-max_norm, max_norm]. The direction changes, and the norm may still exceed the
    limit."""
    return {name: np.clip(g, -max_norm, max_norm) for name, g in gradients.items()}, _norm(gradients)


@_clip("clipping: epsilon missing", pitfall=_BOUNDARY, accepted=True)
def _(gradients: Weights, max_norm: float) -> Clipped:
    """The gradients are scaled by max_norm / norm, without the 1e-6. The course's tests accept it, since it differs
    by 1e-6 / norm."""
    norm = _norm(gradients)
    return {name: g * min(1.0, max_norm / norm) if norm else g for name, g in gradients.items()}, norm


@_clip("clipping: the largest element in place of the norm", pitfall=_NORM)
def _(gradients: Weights, max_norm: float) -> Clipped:
    """The norm is the largest absolute element. The L2 norm after clipping then exceeds the limit, the more
    elements there are."""
    return _scaled(gradients, max(float(np.abs(g).max()) for g in gradients.values()), max_norm)


@_clip("clipping: the largest tensor's norm in place of the norm", pitfall=_NORM)
def _(gradients: Weights, max_norm: float) -> Clipped:
    """The norm is the largest of the tensors' norms. The norm of all of them together may still exceed the limit."""
    return _scaled(gradients, max(_norm({"": g}) for g in gradients.values()), max_norm)


@_clip("clipping: sum of absolute values in place of the norm", pitfall=_NORM)
def _(gradients: Weights, max_norm: float) -> Clipped:
    """The norm is the L1 norm. It is larger than the L2 norm, so gradients are clipped too early and too much."""
    return _scaled(gradients, sum(float(np.abs(g).sum()) for g in gradients.values()), max_norm)


@_clip("clipping: norms added without squaring", pitfall=_NORM)
def _(gradients: Weights, max_norm: float) -> Clipped:
    """The tensors' norms are added instead of their squares. The sum is too large, so gradients are clipped too
    early and too much."""
    return _scaled(gradients, sum(_norm({"": g}) for g in gradients.values()), max_norm)


@_clip("clipping: squared norm", pitfall=_NORM)
def _(gradients: Weights, max_norm: float) -> Clipped:
    """The root of the sum of squares is missing. Norms above 1 are clipped too much, and norms below 1 too little."""
    return _scaled(gradients, _norm(gradients) ** 2, max_norm)


@_clip("clipping: root mean square in place of the norm", pitfall=_NORM)
def _(gradients: Weights, max_norm: float) -> Clipped:
    """The squares are averaged instead of being summed. A model of n weights is then clipped only at sqrt(n) times
    the limit."""
    size = sum(g.size for g in gradients.values())
    return _scaled(gradients, _norm(gradients) / math.sqrt(size), max_norm)


@_clip("clipping: the last tensor's norm alone", pitfall=_NORM)
def _(gradients: Weights, max_norm: float) -> Clipped:
    """The sum is overwritten by each tensor instead of growing. All gradients are scaled by the norm of the last
    one."""
    return _scaled(gradients, _norm({"": list(gradients.values())[-1]}), max_norm)


@_clip("clipping: scales small gradients up", pitfall=_BOUNDARY)
def _(gradients: Weights, max_norm: float) -> Clipped:
    """The gradients are scaled whether or not they exceed the limit. Small gradients then grow until their norm is
    the limit."""
    norm = _norm(gradients)
    return {name: g * max_norm / (norm + 1e-6) for name, g in gradients.items()}, norm


@_clip("clipping: divided by the norm alone", pitfall=_NORM)
def _(gradients: Weights, max_norm: float) -> Clipped:
    """Gradients above the limit are divided by their norm, but not multiplied by the limit. Their norm is then 1,
    whatever the limit."""
    norm = _norm(gradients)
    return {name: g / (norm + 1e-6) if norm > max_norm else g for name, g in gradients.items()}, norm


@_clip("clipping: gradients do not change")
def _(gradients: Weights, max_norm: float) -> Clipped:
    """The scaled gradients are computed but not written back to p.grad. Nothing is clipped."""
    return dict(gradients), _norm(gradients)
