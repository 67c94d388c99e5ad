"""The layers with weights, except attention."""

import numpy as np

from parity.oracle.functional import gelu, gelu_tanh, one_hot, relu, relu2, silu
from parity.oracle.gradients import Weights


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | float = 0.0) -> np.ndarray:
    """y_o = sum_i weight[o, i] x_i + bias_o."""
    return np.asarray(x @ weight.mT + bias)


def embedding(weight: np.ndarray, token_ids: np.ndarray) -> np.ndarray:
    """The weight's rows at the ids, as the weight times one-hot vectors."""
    return np.asarray(one_hot(token_ids, weight.shape[-2]) @ weight)


def rmsnorm(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """x / sqrt(mean(x^2) + eps) * weight."""
    return x / np.sqrt((x * x).sum(-1, keepdims=True) / x.shape[-1] + eps) * weight


def layernorm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """(x - mean) / sqrt(variance + eps) * weight + bias."""
    centred = x - x.sum(-1, keepdims=True) / x.shape[-1]
    variance = (centred * centred).sum(-1, keepdims=True) / x.shape[-1]
    return centred / np.sqrt(variance + eps) * weight + bias


ACTIVATIONS = {"silu": silu, "gelu": gelu, "gelu_tanh": gelu_tanh, "relu": relu, "relu2": relu2}
GATES = {"swiglu": silu, "geglu_tanh": gelu_tanh}


def feed_forward(weights: Weights, x: np.ndarray, kind: str) -> np.ndarray:
    """w2 f(w1 x) with the activation f; with a gate f it is w2 (f(w1 x) * w3 x)."""

    def w(i: int, x: np.ndarray) -> np.ndarray:
        return linear(x, weights[f"w{i}.weight"], weights.get(f"w{i}.bias", 0.0))

    return w(2, GATES[kind](w(1, x)) * w(3, x) if kind in GATES else ACTIVATIONS[kind](w(1, x)))
