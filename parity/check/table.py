"""The table of the numeric subjects: how they are called, drawn, and computed by the oracle."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from parity import draws as parity_draws
from parity import oracle
from parity.case import Case, Given, Layer, Shape
from parity.check import draws
from parity.check.optimizers import OPTIMIZERS
from parity.check.subjects import Arguments, Array, Call, Subject

WIDE = 1000.0
"""Spread of huge scores and logits."""


def _subject(
    name: str,
    layer: Layer,
    *calls: Call,
    cases: Sequence[dict[str, Any]] = (),
    beyond: Sequence[dict[str, Any]] = (),
    rounded: Sequence[Shape] = (),
    **options: Any,
) -> Subject:
    """Make a subject with one plain case for each of the layer's shapes, and these further ones.

    Args:
        rounded: Shapes of the cases with round sizes.
        options: What is special about the plain cases.
    """
    plain = [{"shape": shape, "seed": i, **options} for i, shape in enumerate(layer.shapes)]
    of_contract = [Case(name, **{"seed": 10 + i, **c}) for i, c in enumerate([*plain, *cases])]
    outside = [Case(name, **{"seed": 100 + i, **c}) for i, c in enumerate(beyond)]
    of_round = [Case(name, shape, seed=200 + i) for i, shape in enumerate(rounded)]
    return Subject(name, calls, layer, tuple(of_contract), tuple(outside), tuple(of_round))


def _weights(given: Given) -> dict[str, np.ndarray]:
    return {name: array for name, array in given.arrays.items() if name != "x"}


def _dict(given: Given) -> Arguments:
    """Return the weights as a dict, as the course's blocks and models receive them."""
    return {name: Array(name) for name in _weights(given)}


def _renamed(**names: str) -> Callable[[Given], Arguments]:
    """Return the arguments that are arrays, constants or statics, by parameter."""

    def arguments(g: Given) -> Arguments:
        return {
            parameter: Array(name) if name in g.arrays | g.constants else g.statics.get(name)
            for parameter, name in names.items()
        }

    return arguments


# Functions without weights.


def _cross_entropy(g: Given) -> np.ndarray:
    return oracle.cross_entropy(g.arrays["logits"], g.constants["targets"])


FUNCTIONS = (
    _subject(
        "softmax",
        Layer(
            ((3, 7), (2, 4, 5), (1, 6)),
            draws.softmax,
            lambda g: oracle.softmax(g.arrays["x"], g.statics["axis"]),
        ),
        Call("run_softmax", _renamed(in_features="x", dim="dim")),
        Call("softmax", _renamed(x="x", axis="dim")),
        cases=({"shape": (3, 5), "scale": 100.0},),
        beyond=({"shape": (3, 5), "spread": WIDE},),
    ),
    _subject(
        "silu",
        Layer(((5, 7), (2, 3, 4)), parity_draws.silu, lambda g: oracle.silu(g.arrays["x"])),
        Call("run_silu", _renamed(in_features="x")),
        Call("silu", _renamed(x="x")),
        beyond=({"shape": (5, 7), "scale": 1000.0},),
    ),
    _subject(
        "gelu",
        Layer(((5, 7), (2, 3, 4)), parity_draws.silu, lambda g: oracle.gelu(g.arrays["x"])),
        Call("run_gelu", _renamed(in_features="x"), year=2024),
        Call("gelu", _renamed(x="x")),
        beyond=({"shape": (5, 7), "scale": 50.0},),
    ),
    _subject(
        "gelu_tanh",
        Layer(((5, 7), (2, 3, 4)), parity_draws.silu, lambda g: oracle.gelu_tanh(g.arrays["x"])),
        Call("gelu_tanh", _renamed(x="x")),
        beyond=({"shape": (5, 7), "scale": 50.0},),
    ),
    _subject(
        "cross_entropy",
        Layer(((5, 7), (3, 11), (1, 6)), draws.cross_entropy, _cross_entropy),
        Call("run_cross_entropy", _renamed(inputs="logits", targets="targets")),
        Call("cross_entropy", _renamed(logits="logits", targets="targets")),
        cases=({"shape": (5, 7), "spread": WIDE},),
        beyond=({"shape": (2, 3, 5)}, {"shape": (3, 5), "scale": 100.0}),
    ),
)


# Layers with weights.


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
    return {"d_model": d_model, "d_ff": d_ff, "weights": _dict(g), "in_features": Array("x")}


_ROWS: tuple[Shape, ...] = ((2, 3, 8), (3, 5, 6), (1, 1, 7))
"""Shapes of arrays that are normalised."""
_FED: tuple[Shape, ...] = ((2, 3, 6, 10), (3, 1, 8, 5), (1, 4, 3, 11))
"""Batch, time, width and inner width of feed-forward layers."""

LAYERS = (
    _subject(
        "linear",
        Layer(
            ((2, 3, 7, 5), (3, 1, 4, 6), (1, 2, 5, 8)),
            parity_draws.linear,
            lambda g: oracle.linear(g.arrays["x"], g.arrays["weight"]),
        ),
        Call("run_linear", _linear),
        Call("linear", _renamed(x="x", weight="weight")),
        cases=({"shape": (2, 3, 5, 5)},),
    ),
    _subject(
        "embedding",
        Layer(
            ((2, 3, 7, 5), (3, 1, 6, 4), (1, 4, 9, 5)),
            parity_draws.embedding,
            lambda g: oracle.embedding(g.arrays["weight"], g.constants["token_ids"]),
        ),
        Call("run_embedding", _embedding),
        Call("embedding", _renamed(weight="weight", token_ids="token_ids")),
    ),
    _subject(
        "rmsnorm",
        Layer(_ROWS, draws.rmsnorm, lambda g: oracle.rmsnorm(g.arrays["x"], g.arrays["weight"], **g.statics)),
        Call("run_rmsnorm", _rmsnorm),
        Call("run_rmsnorm", partial(_rmsnorm, in_dict=True), year=2024),
        Call("rmsnorm", _renamed(x="x", weight="weight", eps="eps")),
        beyond=({"shape": (2, 3, 8), "scale": 1e-6},),
    ),
    _subject(
        "layernorm",
        Layer(
            _ROWS,
            draws.layernorm,
            lambda g: oracle.layernorm(g.arrays["x"], g.arrays["weight"], g.arrays["bias"], **g.statics),
        ),
        Call("layernorm", _renamed(x="x", weight="weight", bias="bias", eps="eps")),
        beyond=({"shape": (2, 3, 8), "scale": 1e-6},),
    ),
    _subject(
        "swiglu",
        Layer(
            _FED,
            parity_draws.swiglu,
            lambda g: oracle.feed_forward(_weights(g), g.arrays["x"], "swiglu"),
        ),
        Call("run_swiglu", _swiglu),
        Call("swiglu", _renamed(x="x", w1="w1.weight", w2="w2.weight", w3="w3.weight")),
        rounded=((2, 3, 8, 128), (3, 1, 16, 64)),
    ),
    _subject(
        "feed_forward",
        Layer(
            _FED,
            draws.feed_forward,
            lambda g: oracle.feed_forward(_weights(g), g.arrays["x"], "gelu"),
        ),
        Call("run_positionwise_feedforward", _feed_forward, year=2024),
        Call("feed_forward", _renamed(x="x", w1="w1.weight", w2="w2.weight")),
    ),
)


# Attention.


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
    return _renamed(x="x", **projections, **{name: name for name in ("num_heads", *more)})


def _oracle_heads(g: Given) -> np.ndarray:
    x, positions = g.arrays["x"], g.constants.get("positions")
    if "theta" in g.statics and positions is None:
        positions = np.arange(x.shape[-2])
    return oracle.multihead_self_attention(
        _weights(g),
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
    _subject(
        "rope",
        Layer(
            ((2, 5, 4), (3, 7, 6), (1, 1, 4)),
            draws.rope,
            lambda g: oracle.rope(g.arrays["x"], g.constants["positions"], g.statics["theta"]),
        ),
        Call("run_rope", _rope),
        Call("rope", _renamed(x="x", positions="positions", theta="theta")),
        cases=({"shape": (2, 5, 8), "positions": "random"},),
        beyond=(
            {"shape": (2, 5, 8), "positions": "from 1000"},
            {"shape": (3, 4, 6), "positions": "random", "mask": "full"},
            {"shape": (2, 3, 5, 8)},
        ),
    ),
    _subject(
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
        cases=({"shape": (2, 3, 4, 5, 6, 7), "mask": "random"},),
        beyond=(
            {"shape": (2, 4, 5, 8, 6), "mask": "full"},
            {"shape": (2, 4, 5, 8, 6), "mask": "causal"},
            {"shape": (2, 4, 5, 8, 6), "mask": "empty row"},
            {"shape": (2, 4, 5, 8, 6), "mask": "random", "spread": WIDE},
        ),
        mask="random",
    ),
    _subject(
        "multihead_self_attention",
        Layer(_HEADS, draws.multihead, _oracle_heads),
        Call("run_multihead_self_attention", _multihead),
        Call("run_multihead_self_attention", _multihead_2024, year=2024),
        Call("multihead_self_attention", _own_heads()),
        beyond=({"shape": (2, 3, 5, 8, 2)},),
    ),
    _subject(
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
    _subject(
        "multihead_self_attention of groups",
        Layer(((2, 5, 24, 6, 3), (3, 7, 16, 4, 1), (1, 1, 8, 4, 2)), draws.grouped, _oracle_heads),
        Call("grouped_query_attention", _own_heads("num_kv_heads")),
    ),
    _subject(
        "multihead_self_attention with norms",
        Layer(_HEADS, draws.normed_heads, _oracle_heads),
        Call("normed_attention", _own_heads("eps")),
    ),
)


# Blocks and models.


def _block(g: Given) -> Arguments:
    config = g.statics["config"]
    return {
        "d_model": config.d_model,
        "num_heads": config.num_heads,
        "d_ff": config.d_ff,
        "max_seq_len": config.context_length,
        "theta": config.rope_theta,
        "weights": _dict(g),
        "in_features": Array("x"),
    }


def _block_2024(g: Given) -> Arguments:
    config = g.statics["config"]
    return {
        "d_model": config.d_model,
        "num_heads": config.num_heads,
        "d_ff": config.d_ff,
        "attn_pdrop": 0.0,
        "residual_pdrop": 0.0,
        "weights": _dict(g),
        "in_features": Array("x"),
    }


def _model(g: Given) -> Arguments:
    config = g.statics["config"]
    return {
        "vocab_size": config.vocab_size,
        "context_length": config.context_length,
        "d_model": config.d_model,
        "num_layers": config.num_layers,
        "num_heads": config.num_heads,
        "d_ff": config.d_ff,
        "rope_theta": config.rope_theta,
        "weights": _dict(g),
        "in_indices": Array("token_ids"),
    }


def _model_2024(g: Given) -> Arguments:
    arguments = _model(g)
    weights, ids = arguments.pop("weights"), arguments.pop("in_indices")
    del arguments["rope_theta"]
    return arguments | {"attn_pdrop": 0.0, "residual_pdrop": 0.0, "weights": weights, "in_indices": ids}


def _own_model(*arrays: str) -> Callable[[Given], Arguments]:
    """Return the arguments of a block or a model by our names: arrays, weights, and the config's numbers."""

    def arguments(g: Given) -> Arguments:
        config = g.statics["config"]
        theta = {"theta": config.rope_theta} if config.position == "rope" else {}
        weights = {"weights": _dict(g), "num_heads": config.num_heads}
        return {name: Array(name) for name in arrays} | weights | theta

    return arguments


def _oracle_block(g: Given) -> np.ndarray:
    x = g.arrays["x"]
    T = x.shape[-2]
    return oracle.transformer_block(_weights(g), x, g.statics["config"], oracle.causal_mask(T), np.arange(T))


def _oracle_model(g: Given) -> np.ndarray:
    return oracle.transformer_lm(g.arrays, g.constants["token_ids"], g.statics["config"])


def _oracle_encoder(g: Given) -> np.ndarray:
    return oracle.transformer_encoder(
        g.arrays, g.constants["token_ids"], g.constants["num_tokens"], g.statics["config"]
    )


def _oracle_prefixed(g: Given) -> np.ndarray:
    c = g.constants
    return oracle.prefix_decoder(
        _weights(g), g.arrays["x"], c["token_ids"], c["num_tokens"], g.statics["config"]
    )


def _block_of(**options: Any) -> Layer:
    shapes = ((3, 5, 2, 4, 10), (2, 7, 3, 4, 10), (1, 1, 2, 4, 9))
    return Layer(shapes, partial(draws.block, **options), _oracle_block, whole_model=True)


def _model_of(**options: Any) -> Layer:
    shapes = ((3, 5, 2, 2, 4, 10, 11), (2, 7, 1, 3, 4, 10, 13), (1, 1, 2, 2, 4, 9, 7))
    return Layer(shapes, partial(parity_draws.transformer_lm, **options), _oracle_model, whole_model=True)


_OF_2024 = {"position": "learned", "ffn": "gelu"}
_OF_GPT2 = {"position": "learned", "ffn": "gelu", "norm": "layernorm", "bias": True}

MODELS = (
    _subject(
        "transformer_block",
        _block_of(),
        Call("run_transformer_block", _block),
        Call("transformer_block", _own_model("x")),
        rounded=((3, 5, 2, 4, 128), (1, 1, 3, 4, 64)),
    ),
    _subject(
        "transformer_block of 2024",
        _block_of(**_OF_2024),
        Call("run_transformer_block", _block_2024, year=2024),
    ),
    _subject(
        "transformer_block with post-norm",
        _block_of(norm_position="post"),
        Call("post_norm_block", _own_model("x")),
    ),
    _subject(
        "transformer_block in parallel", _block_of(block="parallel"), Call("parallel_block", _own_model("x"))
    ),
    _subject("transformer_block of GPT-2", _block_of(**_OF_GPT2), Call("gpt2_block", _own_model("x"))),
    _subject(
        "transformer_lm",
        _model_of(),
        Call("run_transformer_lm", _model),
        Call("transformer_lm", _own_model("token_ids")),
        rounded=((3, 5, 2, 2, 4, 128, 11), (2, 1, 1, 3, 4, 64, 13)),
    ),
    _subject(
        "transformer_lm of 2024", _model_of(**_OF_2024), Call("run_transformer_lm", _model_2024, year=2024)
    ),
    _subject(
        "transformer_lm with learned positions",
        _model_of(position="learned"),
        Call("learned_position_lm", _own_model("token_ids")),
    ),
    _subject(
        "transformer_encoder",
        Layer(((3, 5, 5, 1, 2, 4, 7, 11),), draws.encoder, _oracle_encoder, whole_model=True),
        Call("transformer_encoder", _own_model("token_ids", "num_tokens")),
    ),
    _subject(
        "prefix_decoder",
        Layer(((3, 4, 3, 2, 2, 4, 7, 11),), draws.prefix_decoder, _oracle_prefixed, whole_model=True),
        Call("prefix_decoder", _own_model("x", "num_tokens", "token_ids")),
    ),
)


def _schedule(g: Given) -> np.ndarray:
    s = g.statics
    rest = s["highest"], s["lowest"], s["warmup_steps"], s["cosine_steps"]
    return np.array([oracle.cosine_schedule(step, *rest) for step in s["steps"]])


def _draw_schedule(rng: np.random.Generator, case: Case) -> Given:
    warmup, end = case.shape
    highest = float(rng.uniform(0.1, 1))
    statics = {"highest": highest, "lowest": highest * 0.1, "warmup_steps": warmup, "cosine_steps": end}
    # At the last step of the cosine, wrong formulas differ in whether they are still used.
    return Given({}, statics={"steps": [*range(end), *range(end + 1, end + 4)]} | statics)


def _schedule_arguments(g: Given) -> Arguments:
    s = g.statics
    return {
        "it": s["steps"],
        "max_learning_rate": s["highest"],
        "min_learning_rate": s["lowest"],
        "warmup_iters": s["warmup_steps"],
        "cosine_cycle_iters": s["cosine_steps"],
    }


TRAINING = (
    _subject(
        "lr_schedule",
        Layer(((7, 21), (3, 10)), _draw_schedule, _schedule, differentiable=False),
        Call("run_get_lr_cosine_schedule", _schedule_arguments, through="schedule"),
        Call("cosine_schedule", _schedule_arguments, through="schedule"),
    ),
)

SUBJECTS: tuple[Subject, ...] = (*FUNCTIONS, *LAYERS, *ATTENTION, *MODELS, *TRAINING, *OPTIMIZERS)
