"""softmax, the activations and cross-entropy in another hand: by log-sum-exp, sigmoid, erf and indexing."""

import math
import re
from typing import Any

from parity.case import Given
from tests.check.injected.arrays import Tree
from tests.check.injected.ask import Implementation


def number(wrong: str) -> float:
    """Return the number in a mistake's name."""
    found = re.search(r"\d(\.\d+)?e-\d+", wrong)
    assert found, wrong
    return float(found[0])


def softmax(xp: Any, x: Any, axis: int, wrong: str = "") -> Any:
    match wrong:
        case "softmax: always along the last axis":
            axis = -1
        case "softmax: always along the first axis":
            axis = 0
        case "softmax: over all axes at once":
            return xp.exp(x - xp.logsumexp(x.reshape(-1), 0))
        case "softmax: maximum along the last axis, sum along dim":
            e = xp.exp(x - xp.stop_gradient(xp.max(x, -1)))
            return e / e.sum(axis=axis, keepdims=True)
        case "softmax: no maximum subtracted":
            e = xp.exp(x)
            return e / e.sum(axis=axis, keepdims=True)
        case "softmax: one maximum for the whole array":
            e = xp.exp(x - xp.stop_gradient(x.max()))
            return e / e.sum(axis=axis, keepdims=True)
        case "softmax: logarithm returned":
            return x - xp.logsumexp(x, axis)
    if "epsilon" in wrong:
        e = xp.exp(x - xp.stop_gradient(xp.max(x, axis)))
        return e / (e.sum(axis=axis, keepdims=True) + number(wrong))
    return xp.exp(x - xp.logsumexp(x, axis))


def silu(xp: Any, x: Any, wrong: str = "") -> Any:
    match wrong:
        case "SiLU: sigmoid without the factor x":
            return xp.sigmoid(x)
        case "SiLU: sign of the exponent":
            return x * xp.sigmoid(-x)
        case "SiLU: sigmoid(1.702 x)":
            return x * xp.sigmoid(1.702 * x)
        case "SiLU: GELU in its place":
            return gelu(xp, x)
        case "SiLU: ReLU in its place":
            return relu(xp, x)
        case "SiLU: tanh in the sigmoid's place":
            return x * xp.tanh(x)
        case "SiLU: exp(-x) overflows":
            return x / (1 + xp.exp(-x))
        case "SiLU: exp(x) / (1 + exp(x)) overflows":
            e = xp.exp(x)
            return x * (e / (1 + e))
        case "SiLU: sigmoid detached":
            return x * xp.stop_gradient(xp.sigmoid(x))
    return x * xp.sigmoid(x)


def gelu(xp: Any, x: Any, wrong: str = "") -> Any:
    phi = 0.5 * (1 + xp.erf(x / math.sqrt(2)))
    match wrong:
        case "GELU: approximation by tanh":
            return gelu_tanh(xp, x)
        case "GELU: approximation by sigmoid(1.702 x)":
            return x * xp.sigmoid(1.702 * x)
        case "GELU: SiLU in its place":
            return silu(xp, x)
        case "GELU: ReLU in its place":
            return relu(xp, x)
        case "GELU: erf(x) without 1 / sqrt(2)":
            phi = 0.5 * (1 + xp.erf(x))
        case "GELU: factor 1/2 missing":
            phi = 2 * phi
        case "GELU: Phi without the factor x":
            return phi
        case "GELU: Phi detached":
            phi = xp.stop_gradient(phi)
    return x * phi


def gelu_tanh(xp: Any, x: Any, wrong: str = "") -> Any:
    factor, cubic = math.sqrt(2 / math.pi), 0.044715 * x * x * x
    match wrong:
        case "GELU by tanh: the exact function in its place":
            return gelu(xp, x)
        case "GELU by tanh: square for the cube":
            cubic = 0.044715 * x * x
        case "GELU by tanh: cubic term missing":
            return 0.5 * x * (1 + xp.tanh(factor * x))
        case "GELU by tanh: factor sqrt(2 / pi) missing":
            factor = 1.0
        case "GELU by tanh: sqrt(2 pi) for sqrt(2 / pi)":
            factor = math.sqrt(2 * math.pi)
        case "GELU by tanh: sqrt(2 / pi) outside tanh":
            return 0.5 * x * (1 + factor * xp.tanh(x + cubic))
    return 0.5 * x * (1 + xp.tanh(factor * (x + cubic)))


def relu(xp: Any, x: Any, wrong: str = "") -> Any:
    match wrong:
        case "ReLU: gradient 1 at 0":
            return xp.where(x >= 0, x, 0 * x)
        case "ReLU: gradient 1/2 at 0":
            return xp.maximum(x, 0.0)
        case "ReLU: leaky":
            return xp.where(x > 0, x, 0.01 * x)
        case "ReLU: squared":
            return xp.where(x > 0, x * x, 0 * x)
        case "ReLU: GELU in its place":
            return gelu(xp, x)
        case "ReLU: SiLU in its place":
            return silu(xp, x)
    return xp.where(x > 0, x, 0 * x)


def token_cross_entropy(xp: Any, logits: Any, targets: Any, wrong: str = "") -> Any:
    """-log softmax(logits)[target], by indexing a flat batch."""
    V = logits.shape[-1]
    flat, ids = logits.reshape(-1, V), targets.reshape(-1)
    rows = xp.arange(len(ids))
    log_p = flat - xp.logsumexp(flat, -1)
    largest = xp.max(flat, -1)
    match wrong:
        case "loss: log(softmax) that underflows":
            losses = -xp.log(softmax(xp, flat, -1)[rows, ids])
        case "loss: no maximum subtracted":
            losses = xp.log(xp.exp(flat).sum(axis=-1)) - flat[rows, ids]
        case "loss: classes counted from 1":
            losses = -log_p[rows, ids - 1]
        case "loss: softmax applied twice":
            p = softmax(xp, flat, -1)
            losses = -(p - xp.logsumexp(p, -1))[rows, ids]
        case "loss: logarithm to base 2":
            losses = -log_p[rows, ids] / math.log(2)
        case "loss: sign":
            losses = log_p[rows, ids]
        case "loss: maximum not added back":
            losses = xp.log(xp.exp(flat - largest).sum(axis=-1)) - flat[rows, ids]
        case "loss: maximum not added back, and detached":
            losses = xp.log(xp.exp(flat - xp.stop_gradient(largest)).sum(axis=-1)) - flat[rows, ids]
        case "loss: no log-softmax":
            losses = -flat[rows, ids]
        case "loss: no logarithm":
            losses = -xp.exp(log_p)[rows, ids]
        case "loss: softmax over the batch":
            losses = -(logits - xp.logsumexp(logits, 0)).reshape(-1, V)[rows, ids]
        case "loss: divided by the vocabulary too":
            losses = -(log_p * xp.one_hot(ids, V, log_p)).mean(axis=-1)
        case "loss: softmax's sum detached":
            losses = -(flat - xp.stop_gradient(xp.logsumexp(flat, -1)))[rows, ids]
        case _ if "in the logarithm" in wrong:
            losses = -xp.log(softmax(xp, flat, -1)[rows, ids] + number(wrong))
        case _ if "raised to it" in wrong:
            losses = -xp.log(xp.maximum(softmax(xp, flat, -1)[rows, ids], number(wrong)))
        case _:
            losses = -log_p[rows, ids]
    return losses.reshape(targets.shape)


def cross_entropy(xp: Any, logits: Any, targets: Any, wrong: str = "") -> Any:
    losses = token_cross_entropy(xp, logits, targets, wrong)
    match wrong:
        case "loss: summed":
            return losses.sum()
        case "loss: averaged over the batch only":
            return losses.sum() / len(targets)
        case "loss: logits and targets shifted":
            return token_cross_entropy(xp, logits[..., :-1, :], targets[..., 1:]).mean()
        case "loss: id 0 ignored":
            return xp.where(targets == 0, 0 * losses, losses).sum() / (targets != 0).sum()
        case "loss: logarithm of the mean probability":
            return -xp.log(xp.exp(-losses).mean())
        case "loss: perplexity returned":
            return xp.exp(losses.mean())
        case "loss: every position against every target":
            flat = logits.reshape(-1, logits.shape[-1])
            return -(flat - xp.logsumexp(flat, -1))[:, targets.reshape(-1)].mean()
    return losses.mean()


def _of_loss(f: Any) -> Implementation:
    def call(xp: Any, arrays: Tree, given: Given, wrong: str) -> Any:
        return f(xp, arrays["logits"], xp.ids(given.constants["targets"]), wrong)

    return call


INJECTED: dict[str, Implementation] = {
    "softmax": lambda xp, arrays, given, wrong: softmax(xp, arrays["x"], given.statics["axis"], wrong),
    "silu": lambda xp, arrays, given, wrong: silu(xp, arrays["x"], wrong),
    "gelu": lambda xp, arrays, given, wrong: gelu(xp, arrays["x"], wrong),
    "gelu_tanh": lambda xp, arrays, given, wrong: gelu_tanh(xp, arrays["x"], wrong),
    "relu": lambda xp, arrays, given, wrong: relu(xp, arrays["x"], wrong),
    "token_cross_entropy": _of_loss(token_cross_entropy),
    "cross_entropy": _of_loss(cross_entropy),
}
