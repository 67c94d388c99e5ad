"""The layers with weights in another hand: einsum, indexing, reciprocal roots, a fused gate."""

import math
from typing import Any

import numpy as np

from parity.case import Given
from tests.check.injected.arrays import Tree
from tests.check.injected.ask import Implementation
from tests.check.injected.functional import gelu, number, relu, silu


def linear(xp: Any, x: Any, weight: Any, bias: Any = None, wrong: str = "") -> Any:
    match wrong:
        case "linear: square weight not transposed" if weight.shape[0] == weight.shape[1]:
            return _plus(xp.einsum("...i,io->...o", x, weight), bias)
        case "linear: weight reshaped, not transposed":
            return _plus(x @ weight.reshape(weight.shape[1], weight.shape[0]), bias)
        case "linear: bias missing":
            bias = None
        case "linear: scaled by 1 / sqrt(d_in)":
            return _plus(xp.einsum("...i,oi->...o", x, weight) / math.sqrt(x.shape[-1]), bias)
        case "linear: input detached":
            x = xp.stop_gradient(x)
    return _plus(xp.einsum("...i,oi->...o", x, weight), bias)


def _plus(y: Any, bias: Any) -> Any:
    return y if bias is None else y + bias


def embedding(xp: Any, weight: Any, ids: np.ndarray, wrong: str = "") -> Any:
    V, D = weight.shape
    match wrong:
        case "embedding: ids counted from 1":
            return weight[xp.ids(ids - 1)]
        case "embedding: row 0 is padding":
            return xp.concatenate([xp.zeros_like(weight[:1]), weight[1:]], 0)[xp.ids(ids)]
        case "embedding: scaled by sqrt(d_model)":
            return weight[xp.ids(ids)] * math.sqrt(D)
        case "embedding: table reshaped":
            return weight.reshape(D, V).T[xp.ids(ids)]
        case "embedding: rows of length 1":
            return (weight / xp.sqrt((weight * weight).sum(axis=1, keepdims=True)))[xp.ids(ids)]
        case "embedding: a repeated id gets one place's gradient":
            reversed_ids = ids.ravel()[::-1]
            _, last = np.unique(reversed_ids, return_index=True)
            is_last = np.zeros(ids.size, bool)
            is_last[ids.size - 1 - last] = True
            rows = weight[xp.ids(ids)]
            return xp.where(xp.ids(is_last.reshape(*ids.shape, 1)), rows, xp.stop_gradient(rows))
    return weight[xp.ids(ids)]


def rmsnorm(xp: Any, x: Any, weight: Any, eps: float, wrong: str = "") -> Any:
    axis: int | tuple[int, ...] = -1
    D = x.shape[-1]
    match wrong:
        case "RMSNorm: epsilon outside the root":
            return weight * x / (xp.sqrt((x * x).mean(axis=-1, keepdims=True)) + eps)
        case "RMSNorm: no epsilon":
            eps = 0.0
        case "RMSNorm: epsilon added to the sum of squares":
            return weight * x * math.sqrt(D) / xp.sqrt((x * x).sum(axis=-1, keepdims=True) + eps)
        case "RMSNorm: epsilon squared":
            eps = eps**2
        case "RMSNorm: epsilon as a lower bound":
            return weight * x / xp.sqrt(xp.maximum((x * x).mean(axis=-1, keepdims=True), eps))
        case "RMSNorm: sum of squares divided by d_model - 1":
            return weight * x / xp.sqrt((x * x).sum(axis=-1, keepdims=True) / (D - 1) + eps)
        case "RMSNorm: 1 + weight":
            weight = 1 + weight
        case "RMSNorm: mean over all axes":
            axis = tuple(range(x.ndim))
        case "RMSNorm: mean over the sequence":
            axis = -2
        case "RMSNorm: mean over the sequence and d_model":
            axis = (-2, -1)
        case "RMSNorm: mean subtracted, as in LayerNorm":
            x = x - x.mean(axis=-1, keepdims=True)
        case "RMSNorm: standard deviation for the root mean square":
            variance = (x * x).mean(axis=-1, keepdims=True) - x.mean(axis=-1, keepdims=True) ** 2
            return weight * x / xp.sqrt(variance + eps)
        case "RMSNorm: weight missing":
            return x / xp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
        case "RMSNorm: weight before the norm":
            x = x * weight
            return x / xp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
        case "RMSNorm: sum for the mean":
            return weight * x / xp.sqrt((x * x).sum(axis=-1, keepdims=True) + eps)
        case "RMSNorm: root missing":
            return weight * x / ((x * x).mean(axis=-1, keepdims=True) + eps)
        case "RMSNorm: root mean square multiplied":
            return weight * (x * xp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps))
        case "RMSNorm: root mean square detached":
            return weight * x / xp.stop_gradient(xp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps))
        case _ if "epsilon always" in wrong:
            eps = number(wrong)
    return weight * (x * ((x * x).mean(axis=axis, keepdims=True) + eps) ** -0.5)


def layernorm(xp: Any, x: Any, weight: Any, bias: Any, eps: float, wrong: str = "") -> Any:
    D = x.shape[-1]
    axes: tuple[int, ...] = (-1,)
    match wrong:
        case "LayerNorm: statistics over all axes":
            axes = tuple(range(x.ndim))
        case "LayerNorm: statistics over the sequence and d_model":
            axes = (-2, -1)
        case "LayerNorm: statistics over the batch, as in BatchNorm":
            axes = tuple(range(x.ndim - 1))
    mean = x.mean(axis=axes, keepdims=True)
    variance = ((x - mean) * (x - mean)).mean(axis=axes, keepdims=True)
    match wrong:
        case "LayerNorm: epsilon outside the root":
            return (x - mean) / (xp.sqrt(variance) + eps) * weight + bias
        case "LayerNorm: no epsilon":
            eps = 0.0
        case "LayerNorm: unbiased variance":
            variance = variance * D / (D - 1)
        case "LayerNorm: unbiased standard deviation plus epsilon":
            return weight * (x - mean) / (xp.std(x, -1, correction=1, keepdims=True) + eps) + bias
        case "LayerNorm: mean not subtracted, as in RMSNorm":
            return weight * x / xp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) + bias
        case "LayerNorm: mean subtracted in the variance only":
            mean = 0.0
        case "LayerNorm: mean of squares for the variance":
            variance = (x * x).mean(axis=-1, keepdims=True)
        case "LayerNorm: root missing":
            return weight * (x - mean) / (variance + eps) + bias
        case "LayerNorm: bias missing":
            return weight * (x - mean) / xp.sqrt(variance + eps)
        case "LayerNorm: weight missing":
            return (x - mean) / xp.sqrt(variance + eps) + bias
        case "LayerNorm: 1 + weight":
            weight = 1 + weight
        case "LayerNorm: bias multiplied by the weight":
            return ((x - mean) / xp.sqrt(variance + eps) + bias) * weight
        case "LayerNorm: mean and variance detached":
            mean, variance = xp.stop_gradient(mean), xp.stop_gradient(variance)
        case "LayerNorm: variance detached":
            variance = xp.stop_gradient(variance)
        case _ if "epsilon always" in wrong:
            eps = number(wrong)
    return weight * (x - mean) / xp.sqrt(variance + eps) + bias


ACTIVATIONS = {"silu": silu, "gelu": gelu, "relu": relu}


def feed_forward(xp: Any, w: Tree, x: Any, kind: str, wrong: str = "") -> Any:
    """Two linear layers with an activation between them."""
    activation = ACTIVATIONS[kind]
    first = None if "hidden bias" in wrong else w.get("w1.bias")
    last = None if "output bias" in wrong else w.get("w2.bias")
    hidden = linear(xp, x, w["w1.weight"], first, wrong)
    if wrong not in ("feed-forward: activation missing", "feed-forward: activation of the output only"):
        hidden = activation(xp, hidden, wrong)
    y = linear(xp, hidden, w["w2.weight"], last, wrong)
    if "activation of the output" in wrong:
        y = activation(xp, y)
    return x + y if "residual" in wrong else y


def swiglu(xp: Any, w: Tree, x: Any, wrong: str = "") -> Any:
    """The gate and the value come from one fused product, w13 x, that is split into halves."""
    if wrong.startswith("linear"):
        gate, value = (linear(xp, x, w[f"w{i}.weight"], None, wrong) for i in (1, 3))
    else:
        fused = x @ xp.concatenate([w["w1.weight"], w["w3.weight"]], 0).T
        F = fused.shape[-1] // 2
        gate, value = fused[..., :F], fused[..., F:]
    match wrong:
        case "SwiGLU: gate and value swapped":
            gate, value = value, gate
        case "SwiGLU: no gate":
            value = 1.0
        case "SwiGLU: W1 in both places":
            value = gate
        case "SwiGLU: fused projection split by alternating rows":
            gate, value = fused[..., 0::2], fused[..., 1::2]
        case "SwiGLU: SiLU of both factors":
            value = silu(xp, value)
        case "SwiGLU: a d_ff of its own":
            own = int(8 * x.shape[-1] / 3)
            hidden = silu(xp, gate[..., :own]) * value[..., :own]
            return hidden @ w["w2.weight"][:, :own].T
    hidden = silu(xp, gate, wrong) * value
    match wrong:
        case "SwiGLU: SiLU of the product":
            hidden = silu(xp, gate * value)
        case "SwiGLU: sum for the product":
            hidden = silu(xp, gate) + value
        case "SwiGLU: gate detached":
            hidden = xp.stop_gradient(silu(xp, gate)) * value
        case "feed-forward: activation missing" | "feed-forward: activation of the output only":
            hidden = gate * value
    y = linear(xp, hidden, w["w2.weight"], None, wrong)
    if "activation of the output" in wrong:
        y = silu(xp, y)
    return x + y if "residual" in wrong else y


def _linear(xp: Any, arrays: Tree, given: Given, wrong: str) -> Any:
    return linear(xp, arrays["x"], arrays["weight"], arrays.get("bias"), wrong)


def _rmsnorm(xp: Any, arrays: Tree, given: Given, wrong: str) -> Any:
    return rmsnorm(xp, arrays["x"], arrays["weight"], given.statics["eps"], wrong)


def _feed_forward(xp: Any, arrays: Tree, given: Given, wrong: str) -> Any:
    return feed_forward(xp, arrays, arrays["x"], given.statics.get("kind", "gelu"), wrong)


def _layernorm(xp: Any, arrays: Tree, given: Given, wrong: str) -> Any:
    return layernorm(xp, arrays["x"], arrays["weight"], arrays["bias"], given.statics["eps"], wrong)


INJECTED: dict[str, Implementation] = {
    "linear": _linear,
    "linear with bias": _linear,
    "embedding": lambda xp, arrays, given, wrong: embedding(
        xp, arrays["weight"], given.constants["token_ids"], wrong
    ),
    "rmsnorm": _rmsnorm,
    "layernorm": _layernorm,
    "swiglu": lambda xp, arrays, given, wrong: swiglu(xp, arrays, arrays["x"], wrong),
    "feed_forward": _feed_forward,
    "feed_forward with biases": _feed_forward,
}
