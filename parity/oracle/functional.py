"""Functions without weights of their own: softmax, activations, cross-entropy, gradient clipping."""

import math

import numpy as np

from parity.oracle.gradients import Weights


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """exp(x) / sum(exp(x)) along `axis`."""
    exp = np.exp(x - x.real.max(axis, keepdims=True))
    return exp / exp.sum(axis, keepdims=True)


def silu(x: np.ndarray) -> np.ndarray:
    """x / (1 + exp(-x)), from an exponential that cannot overflow."""
    exp = np.exp(np.where(x.real > 0, -x, x))
    return x * np.where(x.real > 0, 1, exp) / (1 + exp)


def normal_cdf(x: np.ndarray) -> np.ndarray:
    """Phi(x) of the standard normal distribution.

    NumPy has no erfc, and Python's erfc takes no complex number. So an infinitesimal imaginary part of x is multiplied
    by Phi's derivative, the normal density.
    """
    phi = np.vectorize(math.erfc, otypes=[float])(-x.real / math.sqrt(2)) / 2
    if np.iscomplexobj(x):
        phi = phi + 1j * x.imag * np.exp(-x.real * x.real / 2) / math.sqrt(2 * math.pi)
    return phi


def gelu(x: np.ndarray) -> np.ndarray:
    """x Phi(x), with the standard normal distribution's Phi."""
    return x * normal_cdf(x)


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 (Hendrycks and Gimpel, 2016, section 2)."""
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def relu(x: np.ndarray) -> np.ndarray:
    """x if it is positive, otherwise 0."""
    return x * (x.real > 0)


def relu2(x: np.ndarray) -> np.ndarray:
    """The square of x if x is positive, otherwise 0 (So et al., 2021, section 4.1)."""
    return x * x * (x.real > 0)


def softcap(x: np.ndarray, cap: float) -> np.ndarray:
    """cap tanh(x / cap), which stays between -cap and cap (Gemma 2, 2024, section 2)."""
    return cap * np.tanh(x / cap)


def one_hot(ids: np.ndarray, size: int) -> np.ndarray:
    """1 at the id, 0 elsewhere."""
    return np.eye(size)[ids]


def token_cross_entropy(logits: np.ndarray, targets: np.ndarray, z_loss: float = 0.0) -> np.ndarray:
    """log(Z) - logits[target] + z_loss log(Z)^2, for each position, with Z = sum(exp(logits))."""
    largest = logits.real.max(-1)
    log_sum = largest + np.log(np.exp(logits - largest[..., None]).sum(-1))
    losses = log_sum - (logits * one_hot(targets, logits.shape[-1])).sum(-1)
    return losses + z_loss * log_sum * log_sum if z_loss else losses


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Mean of `token_cross_entropy` over all positions."""
    return token_cross_entropy(logits, targets).sum(tuple(range(-targets.ndim, 0))) / targets.size


def global_norm(vectors: Weights) -> np.ndarray:
    """Square root of the sum of all squares."""
    return np.sqrt(sum((vector * vector).sum(-1) for vector in vectors.values()))


def clip_gradients(gradients: Weights, max_norm: float) -> tuple[dict[str, np.ndarray], float]:
    """Scale the gradients by max_norm / (norm + 1e-6) if norm > max_norm; return them and the norm."""
    norm = float(global_norm({name: g.ravel() for name, g in gradients.items()}))
    if norm <= max_norm:
        return dict(gradients), norm
    return {name: g * max_norm / (norm + 1e-6) for name, g in gradients.items()}, norm
