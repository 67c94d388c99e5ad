"""Draw the arguments of the subjects. What the user's function makes itself, such as a causal mask, is not drawn."""

from dataclasses import replace
from typing import Any

import numpy as np

from parity import draws
from parity.case import Case, Given, Rng

FAR = 6
"""Largest gap between two positions. Farther positions show how precise the angles are: a case of its own."""


def softmax(rng: Rng, case: Case) -> Given:
    """Draw x, whose axes the seed takes in turn, from the front or from the back. Scale 100 is a shift by 100.

    "dim" is what the user's function receives. "axis" is negative, since the oracle's arrays have more leading axes.
    """
    x = rng.standard_normal(case.shape)
    dim = (-1, 0, x.ndim - 1)[case.seed % 3]
    axis = dim - x.ndim if dim >= 0 else dim
    x = x + 100 if case.scale == 100 else x * case.scale
    x = x * case.spread_out(np.moveaxis(x, axis, -1))
    return Given({"x": x}, statics={"axis": axis, "dim": dim})


def cross_entropy(rng: Rng, case: Case) -> Given:
    """Draw logits and targets. Scale 100 is a shift by 100."""
    if case.scale != 100:
        return draws.cross_entropy(rng, case)
    given = draws.cross_entropy(rng, replace(case, scale=1.0))
    return given._replace(arrays={"logits": given.arrays["logits"] + 100})


def linear(rng: Rng, case: Case) -> Given:
    return draws.linear_with_bias(rng, case) if case.seed % 2 else draws.linear(rng, case)


def rmsnorm(rng: Rng, case: Case) -> Given:
    """Draw rows of different sizes: epsilon shows in small ones."""
    given = draws.rmsnorm(rng, case)
    x = given.arrays["x"] * 10.0 ** -rng.integers(0, 3, (*case.shape[:-1], 1))
    return given._replace(arrays=given.arrays | {"x": x})


def layernorm(rng: Rng, case: Case) -> Given:
    given = rmsnorm(rng, case)
    bias = 0.3 * rng.standard_normal(case.shape[-1])
    return given._replace(arrays=given.arrays | {"bias": bias})


def feed_forward(rng: Rng, case: Case) -> Given:
    """Draw a feed-forward layer with GELU and without biases."""
    given = draws.swiglu(rng, case)
    del given.arrays["w3.weight"]
    return given


def positions(rng: Rng, case: Case, *shape: int) -> np.ndarray:
    """Draw increasing positions: from 0, or with gaps, or far."""
    T = shape[-1]
    if case.positions == "from 0":
        return np.broadcast_to(np.arange(T), shape).copy()
    start = 1000 if case.positions == "from 1000" else 0
    return np.asarray(start + rng.integers(1, FAR, shape).cumsum(-1))


def rope(rng: Rng, case: Case) -> Given:
    """Draw queries (..., T, K) with positions (T,), or (..., T) if the mask is "full"."""
    *lead, T, _ = case.shape
    places = positions(rng, case, *(lead if case.mask == "full" else ()), T)
    statics = {"theta": (10_000.0, 500.0)[case.seed % 2], "max_seq_len": int(places.max()) + 3}
    return Given({"x": rng.standard_normal(case.shape) * case.scale}, {"positions": places}, statics)


def attention(rng: Rng, case: Case) -> Given:
    """Draw queries, keys, values and a mask for each sequence, or one mask for all if its kind is "causal"."""
    *lead, T, S, _, _ = case.shape
    given = draws.attention(rng, case)
    if case.mask in ("random", "empty row"):
        given.constants["mask"] = np.stack(
            [draws.draw_mask(rng, case, T, S)["mask"] for _ in range(int(np.prod(lead)))]
        ).reshape(*lead, T, S)
    return given


def multihead(rng: Rng, case: Case) -> Given:
    return draws.multihead(rng, case)._replace(constants={})


def multihead_rope(rng: Rng, case: Case) -> Given:
    """Draw heads with positions (1, T); the mask "full" gives each sequence its own, and "random" gives none."""
    *lead, T, _, _ = case.shape
    given = multihead(rng, case)
    places = positions(rng, case, lead[0] if case.mask == "full" else 1, T)
    statics = given.statics | {"theta": 10_000.0, "max_seq_len": int(places.max()) + 3}
    return given._replace(constants={} if case.mask == "random" else {"positions": places}, statics=statics)


def grouped(rng: Rng, case: Case) -> Given:
    """Draw heads that share keys and values, without biases and norms."""
    given = draws.grouped(rng, case)
    arrays = {n: a for n, a in given.arrays.items() if not n.endswith(("bias", "norm.weight"))}
    return given._replace(arrays=arrays, constants={})


def normed_heads(rng: Rng, case: Case) -> Given:
    """Draw heads with norms of queries and keys."""
    *_, num_heads = case.shape
    given = draws.grouped(rng, replace(case, shape=(*case.shape, num_heads)))
    arrays = {n: a for n, a in given.arrays.items() if not n.endswith("bias")}
    return given._replace(arrays=arrays, constants={})


def normed_heads_rope(rng: Rng, case: Case) -> Given:
    """Draw heads with norms of queries and keys, and positions (1, T)."""
    given = normed_heads(rng, case)
    constants = {"positions": positions(rng, case, 1, case.shape[-3])}
    return given._replace(constants=constants, statics=given.statics | {"theta": 10_000.0})


def block(rng: Rng, case: Case, **options: Any) -> Given:
    B, T, heads, d_head, d_ff = case.shape
    config = draws.model_config(1, heads, d_head, d_ff, T + 2, 1, **options)
    layer = {n: w for n, w in draws.model_weights(rng, config).items() if n.startswith("layers.0.")}
    arrays = {"x": rng.standard_normal((B, T, config.d_model)) * case.scale}
    arrays |= {name.removeprefix("layers.0."): w for name, w in layer.items()}
    return Given(arrays, statics={"config": config})


def transformer_lm(rng: Rng, case: Case, **options: Any) -> Given:
    """Draw a model and tokens. The scale is that of the embeddings and of what sublayers add to them."""
    given = draws.transformer_lm(rng, case, **options)
    ends = ("embeddings.weight", "output_proj.weight", "w2.weight")
    arrays = {n: a * case.scale if n.endswith(ends) else a for n, a in given.arrays.items()}
    return given._replace(arrays=arrays)


def encoder(rng: Rng, case: Case, architecture: str = "encoder") -> Given:
    B, P, T, layers, heads, d_head, d_ff, V = case.shape
    config = draws.model_config(layers, heads, d_head, d_ff, T + P, V, architecture=architecture)
    constants = {
        "token_ids": rng.integers(0, V, (B, T)),
        "num_tokens": rng.permutation(np.linspace(1, P, B).round().astype(np.int64)),
    }
    return Given(draws.model_weights(rng, config), constants, {"config": config})


def prefix_decoder(rng: Rng, case: Case) -> Given:
    """Draw a decoder, the hidden states of a prefix, and tokens."""
    B, P, T, layers, heads, d_head, d_ff, V = case.shape
    config = draws.model_config(layers, heads, d_head, d_ff, T + P, V)
    given = encoder(rng, case, "decoder")
    x = rng.standard_normal((B, P, config.d_model))
    return given._replace(arrays={"x": x} | given.arrays)
