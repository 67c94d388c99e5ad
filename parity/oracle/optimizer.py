"""AdamW, Muon, SGD, and the learning rate's schedule, in plain numbers."""

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
    form: str = "course"


def adamw_update(u: Update) -> tuple[np.ndarray, Any, Any]:
    """Return the weight and its two moments after the step.

    The formula is Loshchilov and Hutter (2019), algorithm 2. The form course has the course's epsilon and order of
    decay, course-2026 decays first, and torch is the paper's own, with corrected moments.
    """
    beta1, beta2 = u.betas
    m = beta1 * u.m + (1 - beta1) * u.gradient
    v = beta2 * u.v + (1 - beta2) * u.gradient**2
    if u.form == "torch":
        corrected_m, corrected_v = m / (1 - beta1**u.t), v / (1 - beta2**u.t)
        step = corrected_m / (np.sqrt(corrected_v) + u.eps) + u.weight_decay * u.weight
        return u.weight - u.lr * step, m, v
    rate = u.lr * math.sqrt(1 - beta2**u.t) / (1 - beta1**u.t)
    if u.form == "course-2026":
        decayed = u.weight * (1 - u.lr * u.weight_decay)
        return decayed - rate * m / (np.sqrt(v) + u.eps), m, v
    weight = u.weight - rate * m / (np.sqrt(v) + u.eps)
    return weight * (1 - u.lr * u.weight_decay), m, v


class AdamW:
    """All weights' moments, and the number of steps taken."""

    def __init__(
        self, betas: tuple[float, float], eps: float, weight_decay: float, form: str = "course"
    ) -> None:
        self.betas, self.eps, self.weight_decay, self.form = betas, eps, weight_decay, form
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
        u = Update(weight, gradient, m, v, self.t, lr, self.betas, self.eps, self.weight_decay, self.form)
        weight, self.m[name], self.v[name] = adamw_update(u)
        return weight


def newton_schulz(s: np.ndarray, steps: int = 5) -> np.ndarray:
    """Return what the steps of Jordan et al. (2024) make of singular values s: s <- a s + b s^3 + c s^5."""
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


def orthogonalize(x: np.ndarray) -> np.ndarray:
    """Decompose the matrix x, apply the polynomials to its singular values, and compose it again."""
    U, s, Vt = np.linalg.svd(x, full_matrices=False)
    return U * newton_schulz(s / max(np.sqrt((s * s).sum()), 1e-7)) @ Vt


class Muon:
    """The momentum of each matrix."""

    def __init__(self, momentum: float, weight_decay: float, scale: str = "original") -> None:
        self.momentum, self.weight_decay, self.scale = momentum, weight_decay, scale
        self.m: dict[str, Any] = {}

    def step(self, weights: Weights, gradients: Weights, lr: float) -> dict[str, np.ndarray]:
        """Return the weights after one more step."""
        return {**weights, **{name: self.update(name, weights[name], g, lr) for name, g in gradients.items()}}

    def update(self, name: str, weight: np.ndarray, gradient: np.ndarray, lr: float) -> np.ndarray:
        """Return one weight after the step, and keep its momentum."""
        mu, (rows, columns) = self.momentum, weight.shape
        self.m[name] = mu * self.m.get(name, 0.0) + (1 - mu) * gradient
        direction = orthogonalize(mu * self.m[name] + (1 - mu) * gradient)
        if self.scale == "original":
            direction = direction * math.sqrt(rows / columns if rows > columns else 1)
        else:
            direction = direction * 0.2 * math.sqrt(rows if rows > columns else columns)
        return weight * (1 - lr * self.weight_decay) - lr * direction


class SGD:
    """Gradient descent with the step size lr / sqrt(t + 1) at step t = 0, 1, ..."""

    def __init__(self) -> None:
        self.t = 0

    def step(self, weights: Weights, gradients: Weights, lr: float) -> dict[str, np.ndarray]:
        """Return the weights after one more step."""
        self.t += 1
        return {name: weights[name] - lr / math.sqrt(self.t) * g for name, g in gradients.items()}
