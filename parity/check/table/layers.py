"""The layers with weights, except attention."""

from functools import partial

from parity import draws as parity_draws
from parity import oracle
from parity.case import Given, Layer, Shape
from parity.check import draws
from parity.check.subjects import Arguments, Array, Call
from parity.check.table.entry import as_dict, renamed, subject, weights


def _linear(g: Given) -> Arguments:
    d_out, d_in = g.arrays["weight"].shape
    return {"d_in": d_in, "d_out": d_out, "weights": Array("weight"), "in_features": Array("x")}


def _embedding(g: Given) -> Arguments:
    vocab_size, d_model = g.arrays["weight"].shape
    ids = Array("token_ids")
    return {"vocab_size": vocab_size, "d_model": d_model, "weights": Array("weight"), "token_ids": ids}


def _rmsnorm(g: Given, in_dict: bool = False) -> Arguments:
    weight = Array("weight")
    return {
        "d_model": g.arrays["x"].shape[-1],
        "eps": g.statics["eps"],
        "weights": {"weight": weight} if in_dict else weight,
        "in_features": Array("x"),
    }


def _swiglu(g: Given) -> Arguments:
    d_model, d_ff = g.arrays["w2.weight"].shape
    weights = {f"w{i}_weight": Array(f"w{i}.weight") for i in (1, 2, 3)}
    return {"d_model": d_model, "d_ff": d_ff, **weights, "in_features": Array("x")}


def _feed_forward(g: Given) -> Arguments:
    d_model, d_ff = g.arrays["w2.weight"].shape
    return {"d_model": d_model, "d_ff": d_ff, "weights": as_dict(g), "in_features": Array("x")}


_ROWS: tuple[Shape, ...] = ((2, 3, 8), (3, 5, 6), (1, 1, 7))
"""Shapes of arrays that are normalised."""
_FED: tuple[Shape, ...] = ((2, 3, 6, 10), (3, 1, 8, 5), (1, 4, 3, 11))
"""Batch, time, width and inner width of feed-forward layers."""

LAYERS = (
    subject(
        "linear",
        Layer(
            ((2, 3, 7, 5), (3, 1, 4, 6), (1, 2, 5, 8)),
            parity_draws.linear,
            lambda g: oracle.linear(g.arrays["x"], g.arrays["weight"]),
        ),
        Call("run_linear", _linear),
        Call("linear", renamed(x="x", weight="weight")),
        cases=({"shape": (2, 3, 5, 5)},),
    ),
    subject(
        "embedding",
        Layer(
            ((2, 3, 7, 5), (3, 1, 6, 4), (1, 4, 9, 5)),
            parity_draws.embedding,
            lambda g: oracle.embedding(g.arrays["weight"], g.constants["token_ids"]),
        ),
        Call("run_embedding", _embedding),
        Call("embedding", renamed(weight="weight", token_ids="token_ids")),
    ),
    subject(
        "rmsnorm",
        Layer(_ROWS, draws.rmsnorm, lambda g: oracle.rmsnorm(g.arrays["x"], g.arrays["weight"], **g.statics)),
        Call("run_rmsnorm", _rmsnorm),
        Call("run_rmsnorm", partial(_rmsnorm, in_dict=True), year=2024),
        Call("rmsnorm", renamed(x="x", weight="weight", eps="eps")),
        beyond=({"shape": (2, 3, 8), "scale": 1e-6},),
    ),
    subject(
        "layernorm",
        Layer(
            _ROWS,
            draws.layernorm,
            lambda g: oracle.layernorm(g.arrays["x"], g.arrays["weight"], g.arrays["bias"], **g.statics),
        ),
        Call("layernorm", renamed(x="x", weight="weight", bias="bias", eps="eps")),
        beyond=({"shape": (2, 3, 8), "scale": 1e-6},),
    ),
    subject(
        "swiglu",
        Layer(
            _FED,
            parity_draws.swiglu,
            lambda g: oracle.feed_forward(weights(g), g.arrays["x"], "swiglu"),
        ),
        Call("run_swiglu", _swiglu),
        Call("swiglu", renamed(x="x", w1="w1.weight", w2="w2.weight", w3="w3.weight")),
        rounded=((2, 3, 8, 128), (3, 1, 16, 64)),
    ),
    subject(
        "feed_forward",
        Layer(
            _FED,
            draws.feed_forward,
            lambda g: oracle.feed_forward(weights(g), g.arrays["x"], "gelu"),
        ),
        Call("run_positionwise_feedforward", _feed_forward, year=2024),
        Call("feed_forward", renamed(x="x", w1="w1.weight", w2="w2.weight")),
    ),
)
