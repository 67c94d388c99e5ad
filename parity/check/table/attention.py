"""RoPE, attention, and heads."""

from collections.abc import Callable

import numpy as np

from parity import oracle
from parity.case import Given, Layer, Shape
from parity.check import draws
from parity.check.subjects import Arguments, Array, Call
from parity.check.table.entry import WIDE, renamed, subject, weights


def _rope(g: Given) -> Arguments:
    return {
        "d_k": g.arrays["x"].shape[-1],
        "theta": g.statics["theta"],
        "max_seq_len": g.statics["max_seq_len"],
        "in_query_or_key": Array("x"),
        "token_positions": Array("positions"),
    }


def _attention(g: Given) -> Arguments:
    mask = Array("mask") if "mask" in g.constants else None
    return {"Q": Array("Q"), "K": Array("K"), "V": Array("V"), "mask": mask}


def _attention_2024(g: Given) -> Arguments:
    """Return the arguments of 2024, whose mask is True if a query may not attend."""
    mask = Array("mask", inverted=True) if "mask" in g.constants else None
    return {"K": Array("K"), "Q": Array("Q"), "V": Array("V"), "mask": mask, "pdrop": 0.0}


def _multihead(g: Given) -> Arguments:
    projections = {
        f"{short}_proj_weight": Array(f"{name}_proj.weight")
        for short, name in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "output"))
    }
    d_model, num_heads = g.arrays["x"].shape[-1], g.statics["num_heads"]
    return {"d_model": d_model, "num_heads": num_heads, **projections, "in_features": Array("x")}


def _multihead_2024(g: Given) -> Arguments:
    """Return the arguments of 2024, with the weights of each head apart."""
    d_model, num_heads = g.arrays["x"].shape[-1], g.statics["num_heads"]
    K = d_model // num_heads
    weights = {
        f"{name}_heads.{h}.weight": Array(f"{name}_proj.weight", (h * K, h * K + K))
        for name in "qkv"
        for h in range(num_heads)
    }
    return {
        "d_model": d_model,
        "num_heads": num_heads,
        "attn_pdrop": 0.0,
        "weights": weights | {"output_proj.weight": Array("output_proj.weight")},
        "in_features": Array("x"),
    }


def _multihead_rope(g: Given) -> Arguments:
    first, *others = _multihead(g).items()
    positions = Array("positions") if "positions" in g.constants else None
    rotation = {"max_seq_len": g.statics["max_seq_len"], "theta": g.statics["theta"]}
    num_heads, *projections = others
    return dict([first, num_heads, *rotation.items(), *projections, ("token_positions", positions)])


def _own_heads(*more: str) -> Callable[[Given], Arguments]:
    """Return the arguments of heads by our names, with further statics and constants."""
    projections = {f"{name}_proj": f"{name}_proj.weight" for name in ("q", "k", "v", "output")}
    return renamed(x="x", **projections, **{name: name for name in ("num_heads", *more)})


def _oracle_heads(g: Given) -> np.ndarray:
    x, positions = g.arrays["x"], g.constants.get("positions")
    if "theta" in g.statics and positions is None:
        positions = np.arange(x.shape[-2])
    return oracle.multihead_self_attention(
        weights(g),
        x,
        g.statics["num_heads"],
        oracle.causal_mask(x.shape[-2]),
        positions,
        g.statics.get("theta", 0.0),
        g.statics.get("eps", 1e-5),
    )


_HEADS: tuple[Shape, ...] = ((2, 5, 12, 3), (3, 7, 8, 2), (1, 6, 20, 5), (2, 1, 12, 3))
"""Batch, time, width and heads."""

ATTENTION = (
    subject(
        "rope",
        Layer(
            ((2, 5, 4), (3, 7, 6), (1, 1, 4)),
            draws.rope,
            lambda g: oracle.rope(g.arrays["x"], g.constants["positions"], g.statics["theta"]),
        ),
        Call("run_rope", _rope),
        Call("rope", renamed(x="x", positions="positions", theta="theta")),
        cases=({"shape": (2, 5, 8), "positions": "random"},),
        beyond=(
            {"shape": (2, 5, 8), "positions": "from 1000"},
            {"shape": (3, 4, 6), "positions": "random", "mask": "full"},
            {"shape": (2, 3, 5, 8)},
        ),
    ),
    subject(
        "scaled_dot_product_attention",
        Layer(
            ((2, 4, 5, 8, 6), (3, 1, 4, 6, 8), (1, 2, 3, 5, 4, 7)),
            draws.attention,
            lambda g: oracle.scaled_dot_product_attention(
                g.arrays["Q"], g.arrays["K"], g.arrays["V"], g.constants.get("mask")
            ),
        ),
        Call("run_scaled_dot_product_attention", _attention),
        Call("run_scaled_dot_product_attention", _attention_2024, year=2024),
        Call("scaled_dot_product_attention", _attention),
        cases=(
            {"shape": (2, 3, 4, 5, 6, 7), "mask": "random"},
            {"shape": (2, 5, 5, 4, 6), "mask": "causal"},
        ),
        beyond=(
            {"shape": (2, 4, 5, 8, 6), "mask": "full"},
            {"shape": (2, 4, 5, 8, 6), "mask": "causal"},
            {"shape": (2, 4, 5, 8, 6), "mask": "empty row"},
            {"shape": (2, 4, 5, 8, 6), "mask": "random", "spread": WIDE},
        ),
        mask="random",
    ),
    subject(
        "multihead_self_attention",
        Layer(_HEADS, draws.multihead, _oracle_heads),
        Call("run_multihead_self_attention", _multihead),
        Call("run_multihead_self_attention", _multihead_2024, year=2024),
        Call("multihead_self_attention", _own_heads()),
        beyond=({"shape": (2, 3, 5, 8, 2)},),
    ),
    subject(
        "multihead_self_attention with rope",
        Layer(_HEADS, draws.multihead_rope, _oracle_heads),
        Call("run_multihead_self_attention_with_rope", _multihead_rope),
        Call("multihead_self_attention_with_rope", _own_heads("positions", "theta")),
        cases=({"shape": (3, 4, 16, 2), "positions": "random"},),
        beyond=(
            {"shape": (2, 5, 12, 3), "mask": "full", "positions": "random"},
            {"shape": (2, 5, 12, 3), "mask": "random"},
        ),
    ),
    subject(
        "multihead_self_attention of groups",
        Layer(((2, 5, 24, 6, 3), (3, 7, 16, 4, 1), (1, 1, 8, 4, 2)), draws.grouped, _oracle_heads),
        Call("grouped_query_attention", _own_heads("num_kv_heads")),
    ),
    subject(
        "multihead_self_attention with norms",
        Layer(_HEADS, draws.normed_heads, _oracle_heads),
        Call("normed_attention", _own_heads("eps")),
    ),
    subject(
        "multihead_self_attention with norms and rope",
        Layer(_HEADS, draws.normed_heads_rope, _oracle_heads),
        Call("normed_attention_with_rope", _own_heads("positions", "theta", "eps")),
    ),
)
