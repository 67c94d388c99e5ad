"""Transformer blocks in torch and JAX, with a switch for each mistake."""

from typing import Any

import numpy as np

from parity.case import Given
from tests.check.injected.arrays import Tree
from tests.check.injected.ask import Implementation
from tests.check.injected.heads import multihead
from tests.check.injected.layers import feed_forward, layernorm, rmsnorm, swiglu

OF_FFN = ("SwiGLU: ", "feed-forward: ", "linear: ", "SiLU: ", "GELU: ")


def below(arrays: Tree, prefix: str) -> Tree:
    """Return the arrays of a module by their names in it."""
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}


def norm(xp: Any, arrays: Tree, name: str, x: Any, config: Any, wrong: str) -> Any:
    """Apply the norm of this name."""
    gain, bias = arrays[f"{name}.weight"], arrays.get(f"{name}.bias")
    if config.norm == "layernorm":
        return layernorm(xp, x, gain, bias, config.norm_eps, wrong)
    return rmsnorm(xp, x, gain, config.norm_eps, wrong)


def block(
    xp: Any, arrays: Tree, mask: np.ndarray, positions: np.ndarray | None, config: Any, wrong: str = ""
) -> Any:
    """A pre-norm, post-norm or parallel block."""
    statics = {"num_heads": config.num_heads, "theta": config.rope_theta, "eps": config.norm_eps}

    def attn(x: Any) -> Any:
        return multihead(xp, {**below(arrays, "attn."), "x": x}, mask, positions, statics, wrong)

    def ffn(x: Any) -> Any:
        weights, inner = below(arrays, "ffn."), wrong if wrong.startswith(OF_FFN) else ""
        if config.ffn == "swiglu":
            return swiglu(xp, weights, x, inner)
        return feed_forward(xp, weights, x, config.ffn, inner)

    def ln(name: str, x: Any) -> Any:
        return norm(xp, arrays, name, x, config, wrong)

    x = arrays["x"]
    if config.block == "parallel":
        return parallel(x, attn, ffn, ln, wrong)
    if config.norm_position == "post":
        return post(x, attn, ffn, ln, wrong)
    return pre(xp, x, attn, ffn, ln, wrong)


def pre(xp: Any, x: Any, attn: Any, ffn: Any, ln: Any, wrong: str) -> Any:
    """Pre-norm: what attention reads, what it is added to, and both for the feed-forward layer."""
    first, second = {
        "ln1 for both norms": ("ln1", "ln1"),
        "ln2 for both norms": ("ln2", "ln2"),
        "ln1 and ln2 swapped": ("ln2", "ln1"),
        "attention reads the unnormed stream": (None, "ln2"),
        "feed-forward layer reads the unnormed stream": ("ln1", None),
        "block without norms": (None, None),
    }.get(wrong, ("ln1", "ln2"))
    if wrong == "feed-forward layer before attention":
        attn, ffn, first, second = ffn, attn, second, first
    if wrong == "post-norm in place of pre-norm":
        return post(x, attn, ffn, ln, "")
    if wrong == "norms of the sublayers' outputs":
        return post(x, attn, ffn, ln, "post-norm before the sum")
    if wrong == "attention missing":
        return x + ffn(ln("ln2", x))

    normed = x if first is None else ln(first, x)
    attended = attn(normed)
    residual = x
    if wrong in ("residual of the normed input of attention", "residuals of both normed inputs"):
        residual = normed
    if wrong == "residual stream detached":
        residual = xp.stop_gradient(x)
    y = attended if wrong in ("no residual around attention", "no residuals") else residual + attended
    if wrong == "feed-forward layer missing":
        return y

    read = {
        "parallel in place of sequential": x,
        "feed-forward layer reads attention's output": attended,
    }.get(wrong, y)
    normed = read if second is None else ln(second, read)
    fed = ffn(normed)
    match wrong:
        case "no residual around the feed-forward layer" | "no residuals":
            return fed
        case "residual of the normed input of the feed-forward layer" | "residuals of both normed inputs":
            return normed + fed
        case "second residual of the block's input":
            return x + fed
        case "input of the block added twice":
            return x + y + fed
        case "residual stream detached":
            return xp.stop_gradient(y) + fed
    return y + fed


def post(x: Any, attn: Any, ffn: Any, ln: Any, wrong: str) -> Any:
    """Post-norm."""
    if wrong == "pre-norm in place of post-norm":
        x = x + attn(ln("ln1", x))
        return x + ffn(ln("ln2", x))
    if wrong == "post-norm before the sum":
        y = ln("ln1", attn(x)) + x
        return ln("ln2", ffn(y)) + y
    names = ("ln2", "ln1") if wrong.endswith("swapped") and wrong.startswith("post") else ("ln1", "ln2")
    residual = 0.0 if wrong == "post-norm without residuals" else 1.0
    y = ln(names[0], residual * x + attn(x))
    kept = x if wrong == "post-norm: second residual of the block's input" else y
    return ln(names[1], residual * kept + ffn(y))


def parallel(x: Any, attn: Any, ffn: Any, ln: Any, wrong: str) -> Any:
    """Pre-norm with attention beside the feed-forward layer."""
    normed = ln("ln1", x)
    attended = attn(normed)
    match wrong:
        case "sequential in place of parallel":
            y = x + attended
            return y + ffn(ln("ln1", y))
        case "parallel: feed-forward layer reads the unnormed stream":
            return x + attended + ffn(x)
        case "parallel: residual of the normed input":
            return normed + attended + ffn(normed)
        case "parallel without a residual":
            return attended + ffn(normed)
    return x + attended + ffn(normed)


def _block(xp: Any, arrays: Tree, given: Given, wrong: str) -> Any:
    T = arrays["x"].shape[-2]
    config, constants = given.statics["config"], given.constants
    positions = constants.get("positions", np.arange(T)) if config.position == "rope" else None
    return block(xp, arrays, constants.get("mask", np.tri(T, dtype=bool)), positions, config, wrong)


INJECTED: dict[str, Implementation] = dict.fromkeys(
    (
        "transformer_block",
        "transformer_block of 2024",
        "transformer_block with post-norm",
        "transformer_block in parallel",
        "transformer_block of GPT-2",
    ),
    _block,
)
