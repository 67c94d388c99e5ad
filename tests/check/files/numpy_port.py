# mypy: ignore-errors
"""Functions on NumPy's arrays, by the course's names and by ours."""

import numpy as np


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def rmsnorm(x, weight, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def cross_entropy(logits, targets):
    logits = logits - logits.max(-1, keepdims=True)
    picked = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return (np.log(np.exp(logits).sum(-1)) - picked).mean()
