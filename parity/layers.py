"""The layers that are compared: how each one's arguments are drawn, and what the oracle computes from them."""

from collections.abc import Callable
from functools import partial
from typing import get_args

import numpy as np

from lm.config import AdamWForm
from parity import draws, oracle
from parity.case import Arrays, Given, Layer


def _flat(arrays: Arrays) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays.values()])


def _steps(given: Given, optimizer: oracle.AdamW | oracle.Muon | oracle.SGD) -> np.ndarray:
    """Return the weight after a step with each gradient."""
    weights = {"weight": given.arrays["weight"]}
    for t in range(len(given.arrays) - 1):
        weights = optimizer.step(weights, {"weight": given.arrays[f"{t}.gradient"]}, given.statics["lr"])
    return weights["weight"]


def _oracle_adamw(given: Given) -> np.ndarray:
    return _steps(given, oracle.AdamW((0.9, 0.999), 1e-8, 0.1, given.statics["form"]))


def _oracle_family(given: Given) -> np.ndarray:
    statics, constants = given.statics, given.constants
    drop = oracle.make_drop(statics["seed"], statics["step"], constants["rows"])
    ids, starts = constants["token_ids"], constants.get("starts")
    return oracle.transformer_lm(given.arrays, ids, statics["config"], drop, starts)


def _oracle_block(given: Given) -> np.ndarray:
    weights = {name: a for name, a in given.arrays.items() if name != "x"}
    return oracle.transformer_block(
        weights,
        given.arrays["x"],
        given.statics["config"],
        given.constants["mask"],
        given.constants["positions"],
    )


def _oracle_multihead(given: Given) -> np.ndarray:
    weights = {name: a for name, a in given.arrays.items() if name != "x"}
    return oracle.multihead_self_attention(
        weights,
        given.arrays["x"],
        given.statics["num_heads"],
        given.constants["mask"],
        given.constants.get("positions"),
        given.statics.get("theta", 0.0),
        given.statics.get("eps", 0.0),
    )


def _oracle_own_d_head(given: Given) -> np.ndarray:
    arrays, s = given.arrays, given.statics
    return oracle.multihead_self_attention(
        {name: 1 + a if "norm" in name else a for name, a in arrays.items()},
        arrays["x"],
        s["num_heads"],
        given.constants["mask"],
        given.constants["positions"],
        s["theta"],
        s["eps"],
        score_dim=s["score_dim"],
        cap=s["cap"],
    )


def _oracle_loss(given: Given) -> np.ndarray:
    logits = oracle.transformer_lm(given.arrays, given.constants["token_ids"], given.statics["config"])
    return oracle.cross_entropy(logits, given.constants["targets"])


def _oracle_feed_forward(given: Given) -> np.ndarray:
    return oracle.feed_forward(given.arrays, given.arrays["x"], **given.statics)


def _oracle_sequences(name_of_layer: str, *names: str) -> Callable[[Given], np.ndarray]:
    """Return the oracle's layer as a function of weights, these arrays and constants, and the config."""

    def call(given: Given) -> np.ndarray:
        # The layer is looked up at each call: a known mistake may have replaced it.
        f: Callable[..., np.ndarray] = getattr(oracle, name_of_layer)
        return f(given.arrays, *((given.arrays | given.constants)[name] for name in names), **given.statics)

    return call


_SEQUENCES = ((3, 5, 5, 1, 4, 2, 6, 11),)
# What the prefix attends to shows from the second block on.
_PREFIXED = ((3, 5, 3, 2, 4, 2, 6, 11),)

# Not in bfloat16, whose rounding moves one in a thousand of relu's inputs across 0, where the gradient jumps.
_of_variants = partial(Layer, whole_model=True, of_variants=True, dtypes=("float64", "float32"))

LAYERS: dict[str, Layer] = {
    "softmax": Layer(
        ((64,), (6, 7), (4, 3, 9)), draws.softmax, lambda g: oracle.softmax(g.arrays["x"], **g.statics)
    ),
    "silu": Layer(((64,), (3, 5)), draws.silu, lambda g: oracle.silu(g.arrays["x"]), element_wise=True),
    "gelu": Layer(((64,), (3, 5)), draws.silu, lambda g: oracle.gelu(g.arrays["x"])),
    "gelu_tanh": Layer(((64,), (3, 5)), draws.silu, lambda g: oracle.gelu_tanh(g.arrays["x"])),
    "relu": Layer(((64,), (3, 5)), draws.silu, lambda g: oracle.relu(g.arrays["x"]), element_wise=True),
    "relu2": Layer(((64,), (3, 5)), draws.silu, lambda g: oracle.relu2(g.arrays["x"]), element_wise=True),
    "softcap": Layer(
        ((64,), (3, 5)),
        draws.softcap,
        lambda g: oracle.softcap(g.arrays["x"], **g.statics),
        element_wise=True,
    ),
    "token_cross_entropy": Layer(
        ((8, 11), (3, 4, 9)),
        draws.cross_entropy,
        lambda g: oracle.token_cross_entropy(g.arrays["logits"], g.constants["targets"]),
    ),
    "token_cross_entropy with z-loss": Layer(
        ((8, 11), (3, 4, 9)),
        lambda rng, case: draws.cross_entropy(rng, case)._replace(statics={"z_loss": 0.1}),
        lambda g: oracle.token_cross_entropy(g.arrays["logits"], g.constants["targets"], **g.statics),
    ),
    "cross_entropy": Layer(
        ((8, 11), (3, 4, 9)),
        draws.cross_entropy,
        lambda g: oracle.cross_entropy(g.arrays["logits"], g.constants["targets"]),
    ),
    "global_norm": Layer(((5, 3, 4), (1, 1)), draws.gradients, lambda g: oracle.global_norm(g.arrays)),
    "clip_gradients": Layer(
        ((5, 3, 4), (1, 1)),
        draws.clip_gradients,
        lambda g: _flat(oracle.clip_gradients(g.arrays, **g.statics)[0]),
        differentiable=False,
    ),
    "linear": Layer(
        ((24, 16), (4, 12, 9), (2, 3, 8, 5)),
        draws.linear,
        lambda g: oracle.linear(g.arrays["x"], g.arrays["weight"]),
    ),
    "linear with bias": Layer(
        ((24, 16), (2, 3, 8, 5)),
        draws.linear_with_bias,
        lambda g: oracle.linear(g.arrays["x"], g.arrays["weight"], g.arrays["bias"]),
    ),
    "embedding": Layer(
        ((7, 4), (5, 3, 2), (2, 3, 5, 4)),
        draws.embedding,
        lambda g: oracle.embedding(g.arrays["weight"], g.constants["token_ids"]),
    ),
    "rmsnorm": Layer(
        ((32,), (6, 11), (2, 3, 8)),
        draws.rmsnorm,
        lambda g: oracle.rmsnorm(g.arrays["x"], g.arrays["weight"], **g.statics),
    ),
    "layernorm": Layer(
        ((6, 11), (2, 3, 8)),
        draws.layernorm,
        lambda g: oracle.layernorm(g.arrays["x"], g.arrays["weight"], g.arrays["bias"], **g.statics),
    ),
    "rmsnorm of 1 + weight": Layer(
        ((6, 11),),
        lambda rng, case: draws.with_offset(draws.rmsnorm(rng, case)),
        lambda g: oracle.rmsnorm(g.arrays["x"], 1 + g.arrays["weight"], g.statics["eps"]),
    ),
    "layernorm of 1 + weight": Layer(
        ((6, 11),),
        lambda rng, case: draws.with_offset(draws.layernorm(rng, case)),
        lambda g: oracle.layernorm(g.arrays["x"], 1 + g.arrays["weight"], g.arrays["bias"], g.statics["eps"]),
    ),
    "swiglu": Layer(
        ((12, 8, 24), (4, 3, 6, 20)),
        draws.swiglu,
        lambda g: oracle.feed_forward(g.arrays, g.arrays["x"], "swiglu"),
    ),
    "geglu": Layer(
        ((12, 8, 24), (4, 3, 6, 20)),
        draws.swiglu,
        lambda g: oracle.feed_forward(g.arrays, g.arrays["x"], "geglu_tanh"),
    ),
    "feed_forward": Layer(((6, 24, 16), (2, 3, 32, 24)), draws.feed_forward, _oracle_feed_forward),
    "rope": Layer(
        ((5, 4), (3, 5, 2), (2, 3, 4, 6)),
        draws.rope,
        lambda g: oracle.rope(g.arrays["x"], g.constants["positions"], g.statics["theta"]),
    ),
    "scaled_dot_product_attention": Layer(
        ((7, 9, 8, 5), (2, 6, 6, 4, 5), (2, 3, 5, 8, 6, 4), (2, 1, 1, 4, 3)),
        draws.attention,
        lambda g: oracle.scaled_dot_product_attention(
            g.arrays["Q"], g.arrays["K"], g.arrays["V"], g.constants.get("mask")
        ),
    ),
    "scaled_dot_product_attention with a cap": Layer(
        ((7, 9, 8, 5), (2, 3, 5, 8, 6, 4)),
        draws.capped_attention,
        lambda g: oracle.scaled_dot_product_attention(
            g.arrays["Q"], g.arrays["K"], g.arrays["V"], g.constants.get("mask"), **g.statics
        ),
    ),
    "multihead_self_attention": Layer(((8, 24, 3), (2, 6, 16, 2)), draws.multihead, _oracle_multihead),
    "multihead_self_attention with rope": Layer(
        ((8, 24, 3), (2, 6, 16, 2)), draws.multihead_rope, _oracle_multihead
    ),
    # Not in bfloat16: the gradients of keys' gains and biases are sums whose terms cancel, but whose roundings do not.
    "multihead_self_attention of groups": Layer(
        ((8, 24, 6, 3), (2, 6, 16, 4, 1)), draws.grouped, _oracle_multihead, dtypes=("float64", "float32")
    ),
    "multihead_self_attention with a d_head": Layer(
        ((8, 24, 4, 2, 10), (2, 6, 16, 2, 1, 4)),
        draws.own_d_head,
        _oracle_own_d_head,
        dtypes=("float64", "float32"),
    ),
    "transformer_block": Layer(
        ((2, 6, 2, 8, 24), (3, 5, 4, 4, 18)), draws.block, _oracle_block, whole_model=True
    ),
    "transformer_lm": Layer(
        ((2, 6, 2, 2, 8, 24, 19), (3, 5, 1, 4, 4, 18, 13)),
        draws.transformer_lm,
        lambda g: oracle.transformer_lm(g.arrays, g.constants["token_ids"], g.statics["config"]),
        whole_model=True,
    ),
    "training loss": Layer(
        ((2, 6, 2, 2, 8, 24, 19), (3, 5, 1, 4, 4, 18, 13)), draws.loss, _oracle_loss, whole_model=True
    ),
    "transformer_lm of the family": _of_variants(
        ((2, 5, 1, 4, 4, 12, 11),),
        draws.family,
        _oracle_family,
    ),
    "transformer_lm of documents": _of_variants(
        ((2, 7, 1, 4, 4, 12, 11),),
        draws.documents,
        _oracle_family,
    ),
    "encoder_stack": _of_variants(
        _SEQUENCES,
        draws.encoder_stack,
        _oracle_sequences("encoder_stack", "x", "num_tokens"),
    ),
    "transformer_encoder": _of_variants(
        _SEQUENCES,
        draws.encoder,
        _oracle_sequences("transformer_encoder", "token_ids", "num_tokens"),
    ),
    "prefix_decoder": _of_variants(
        _PREFIXED,
        draws.prefix_decoder,
        _oracle_sequences("prefix_decoder", "x", "token_ids", "num_tokens"),
    ),
    "encoder_decoder": _of_variants(
        _PREFIXED,
        draws.encoder_decoder,
        _oracle_sequences("encoder_decoder", "token_ids", "num_tokens", "prefix"),
    ),
    "adamw": Layer(((3, 5), (4,)), draws.steps, _oracle_adamw, differentiable=False),
    **{
        f"one step of adamw, {form}": Layer(
            ((3, 5), (64,)),
            partial(draws.one_step, form=form),
            _oracle_adamw,
            differentiable=False,
            element_wise=True,
        )
        for form in get_args(AdamWForm)
    },
    # Newton-Schulz steps multiply the errors of small singular values, so that its budget is a model's.
    "muon": Layer(
        ((6, 6), (12, 5), (5, 12)),
        draws.steps,
        lambda g: _steps(g, oracle.Muon(0.95, 0.1)),
        differentiable=False,
        whole_model=True,
    ),
    "sgd": Layer(((3, 5), (4,)), draws.steps, lambda g: _steps(g, oracle.SGD()), differentiable=False),
}
"""All public functions and layers, by their names in `jax_impl`."""
