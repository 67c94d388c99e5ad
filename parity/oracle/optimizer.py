"""AdamW, SGD, and the learning rate's schedule, in plain numbers."""

import math
from typing import Any, NamedTuple

import numpy as np

from parity.oracle.gradients import Weights


def warm_up(step: int, highest: float, lowest: float, warmup_steps: int) -> float:
    """Rise linearly from 0. `lowest`, which comes after the cosine, has no part in it."""
    return highest * step / warmup_steps


def cosine_schedule(step: int, highest: float, lowest: float, warmup_steps: int, cosine_steps: int) -> float:
    """Rise linearly, fall by half a cosine, then stay at `lowest`."""
    if step < warmup_steps:
        return warm_up(step, highest, lowest, warmup_steps)
    if step >= cosine_steps:
        return lowest
    angle = math.pi * (step - warmup_steps) / (cosine_steps - warmup_steps)
    return lowest + (highest - lowest) * (1 + math.cos(angle)) / 2


class Update(NamedTuple):
    """One weight before an optimizer's step t = 1, 2, ..."""

    weight: np.ndarray
    gradient: np.ndarray
    m: Any
    v: Any
    t: int
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float


def adamw_update(u: Update) -> tuple[np.ndarray, Any, Any]:
    """Return the weight and its two moments after the step.

    The formula is Loshchilov and Hutter (2019), algorithm 2, with the course's epsilon and order of decay.
    """
    beta1, beta2 = u.betas
    m = beta1 * u.m + (1 - beta1) * u.gradient
    v = beta2 * u.v + (1 - beta2) * u.gradient**2
    rate = u.lr * math.sqrt(1 - beta2**u.t) / (1 - beta1**u.t)
    weight = u.weight - rate * m / (np.sqrt(v) + u.eps)
    return weight * (1 - u.lr * u.weight_decay), m, v


class AdamW:
    """All weights' moments, and the number of steps taken."""

    def __init__(self, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.m: dict[str, Any] = {}
        self.v: dict[str, Any] = {}
        self.t = 0

    def step(self, weights: Weights, gradients: Weights, lr: float) -> dict[str, np.ndarray]:
        """Return the weights after one more step. A weight without gradient stays."""
        self.t += 1
        return {
            **weights,
            **{name: self.update(name, weights[name], gradients[name], lr) for name in gradients},
        }

    def update(self, name: str, weight: np.ndarray, gradient: np.ndarray, lr: float) -> np.ndarray:
        """Return one weight after the step, and keep its moments."""
        m, v = self.m.get(name, 0.0), self.v.get(name, 0.0)
        u = Update(weight, gradient, m, v, self.t, lr, self.betas, self.eps, self.weight_decay)
        weight, self.m[name], self.v[name] = adamw_update(u)
        return weight


class SGD:
    """Gradient descent with the step size lr / sqrt(t + 1) at step t = 0, 1, ..."""

    def __init__(self) -> None:
        self.t = 0

    def step(self, weights: Weights, gradients: Weights, lr: float) -> dict[str, np.ndarray]:
        """Return the weights after one more step."""
        self.t += 1
        return {name: weights[name] - lr / math.sqrt(self.t) * g for name, g in gradients.items()}
