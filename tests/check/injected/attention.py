"""Attention as a course solution writes it, in torch and JAX, with a switch for each mistake."""

from typing import Any

import numpy as np

from parity.case import Given
from tests.check.injected.arrays import Tree
from tests.check.injected.ask import Implementation

FILLED = -1e30
"""A masked score that is finite, so that the gradient of a row without keys is."""


def softmax(xp: Any, x: Any, axis: int = -1) -> Any:
    """Softmax after the maximum is subtracted: NaN if all of x is minus infinity."""
    exp = xp.exp(x - xp.stop_gradient(xp.max(x, axis)))
    return exp / exp.sum(axis=axis, keepdims=True)


def scale(Q: Any, K: Any, V: Any, wrong: str) -> float:
    """Return what the scores are divided by."""
    d_k = Q.shape[-1]
    match wrong:
        case "scores not scaled" | "scaled after the softmax":
            return 1.0
        case "scores divided by d_k":
            return float(d_k)
        case "scores multiplied by sqrt(d_k)":
            return float(d_k**-0.5)
        case "scores divided by the root of the number of keys":
            return float(K.shape[-2] ** 0.5)
        case "scores divided by the root of d_v":
            return float(V.shape[-1] ** 0.5)
    return float(d_k**0.5)


def change(mask: np.ndarray, wrong: str) -> np.ndarray:
    """Return the mask of a mistake that is one of the mask alone."""
    T, S = mask.shape[-2:]
    if wrong == "mask ignored":
        return np.ones_like(mask)
    if wrong == "mask transposed" and T == S:
        return mask.swapaxes(-1, -2)
    if wrong.startswith("mask inverted"):
        return ~mask
    if wrong.startswith("causal mask without the diagonal"):
        changed = mask.copy()
        for t in range(min(T, S)):
            changed[..., t, t] = False
        return changed
    if wrong == "causal mask one key too far":
        changed = mask.copy()
        for t in range(T - 1):
            changed[..., t, :] |= mask[..., t + 1, :]
        return changed
    return mask


def attention_weights(xp: Any, Q: Any, K: Any, V: Any, mask: np.ndarray | None, wrong: str = "") -> Any:
    """Return the weights (..., T, S) of the values."""
    if wrong == "queries and keys swapped" and Q.shape[-2] == K.shape[-2]:
        Q, K = K, Q
    scores = Q @ K.swapaxes(-1, -2) / scale(Q, K, V, wrong)
    allowed = np.ones(tuple(scores.shape[-2:]), bool) if mask is None else mask
    if not (mask is None and wrong.startswith("mask inverted")):
        allowed = change(allowed, wrong)
    see = xp.ids(allowed)
    hidden = xp.where(see, scores, -xp.inf)
    match wrong:
        case "softmax over the queries":
            return softmax(xp, hidden, -2)
        case "softmax over all scores of a head":
            flat = hidden.reshape(*hidden.shape[:-2], -1)
            return softmax(xp, flat).reshape(hidden.shape)
        case "no softmax":
            return scores * see
        case "attention weights not normalised":
            low = xp.where(see, scores, FILLED)
            return xp.exp(low - xp.stop_gradient(xp.max(low, -1))) * see
        case "one added to the sum of the softmax":
            exp = xp.where(see, xp.exp(scores), 0.0)
            return exp / (1 + exp.sum(axis=-1, keepdims=True))
        case "masked scores of zero":
            return softmax(xp, scores * see)
        case "mask added as zeros and ones":
            return softmax(xp, scores + see)
        case "mask applied after the softmax":
            return softmax(xp, scores) * see
        case "masked scores of -1e9":
            return softmax(xp, xp.where(see, scores, -1e9))
        case "-1e9 added to masked scores":
            return softmax(xp, scores + xp.array(-1e9 * ~allowed, scores))
    if wrong.endswith("the mean if nothing is left"):
        return softmax(xp, xp.where(see, scores, -1e9))
    if "NaN" in wrong or wrong == "mask transposed":
        return softmax(xp, hidden)
    weights = softmax(xp, xp.where(see, scores, FILLED)) * see
    if wrong == "scaled after the softmax":
        return weights / Q.shape[-1] ** 0.5
    return xp.stop_gradient(weights) if wrong == "attention weights detached" else weights


def attention(xp: Any, arrays: Tree, mask: np.ndarray | None, wrong: str = "") -> Any:
    """Scaled dot-product attention of Q, K and V."""
    Q, K, V = arrays["Q"], arrays["K"], arrays["V"]
    return attention_weights(xp, Q, K, V, mask, wrong) @ V


def _attention(xp: Any, arrays: Tree, given: Given, wrong: str) -> Any:
    return attention(xp, arrays, given.constants.get("mask"), wrong)


INJECTED: dict[str, Implementation] = {"scaled_dot_product_attention": _attention}
