"""AdamW, SGD, and the learning rate's schedule, in plain numbers."""

import math
from typing import Any

import numpy as np

from parity.oracle.gradients import Weights


def cosine_schedule(step: int, highest: float, lowest: float, warmup_steps: int, cosine_steps: int) -> float:
    """Rise linearly, fall by half a cosine, then stay at `lowest`."""
    if step < warmup_steps:
        return highest * step / warmup_steps
    if step >= cosine_steps:
        return lowest
    angle = math.pi * (step - warmup_steps) / (cosine_steps - warmup_steps)
    return lowest + (highest - lowest) * (1 + math.cos(angle)) / 2


class AdamW:
    """Loshchilov and Hutter (2019), algorithm 2, with the course's epsilon and order of decay."""

    def __init__(self, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.m: dict[str, Any] = {}
        self.v: dict[str, Any] = {}
        self.t = 0

    def step(self, weights: Weights, gradients: Weights, lr: float) -> dict[str, np.ndarray]:
        """Return the weights after one more step."""
        self.t += 1
        (beta1, beta2), new = self.betas, {}
        for name, g in gradients.items():
            self.m[name] = beta1 * self.m.get(name, 0.0) + (1 - beta1) * g
            self.v[name] = beta2 * self.v.get(name, 0.0) + (1 - beta2) * g**2
            rate = lr * math.sqrt(1 - beta2**self.t) / (1 - beta1**self.t)
            new[name] = weights[name] - rate * self.m[name] / (np.sqrt(self.v[name]) + self.eps)
            new[name] = new[name] * (1 - lr * self.weight_decay)
        return new


class SGD:
    """Gradient descent with the step size lr / sqrt(t + 1) at step t = 0, 1, ..."""

    def __init__(self) -> None:
        self.t = 0

    def step(self, weights: Weights, gradients: Weights, lr: float) -> dict[str, np.ndarray]:
        """Return the weights after one more step."""
        self.t += 1
        return {name: weights[name] - lr / math.sqrt(self.t) * g for name, g in gradients.items()}
