"""Blocks and models."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from parity import oracle
from parity.case import Given, Layer
from parity.check import draws
from parity.check.subjects import Arguments, Array, Call
from parity.check.table.entry import as_dict, subject, weights


def _block(g: Given) -> Arguments:
    config = g.statics["config"]
    return {
        "d_model": config.d_model,
        "num_heads": config.num_heads,
        "d_ff": config.d_ff,
        "max_seq_len": config.context_length,
        "theta": config.rope_theta,
        "weights": as_dict(g),
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
        "weights": as_dict(g),
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
        "weights": as_dict(g),
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
        weights = {"weights": as_dict(g), "num_heads": config.num_heads}
        return {name: Array(name) for name in arrays} | weights | theta

    return arguments


def _oracle_block(g: Given) -> np.ndarray:
    x = g.arrays["x"]
    T = x.shape[-2]
    return oracle.transformer_block(weights(g), x, g.statics["config"], oracle.causal_mask(T), np.arange(T))


def _oracle_model(g: Given) -> np.ndarray:
    return oracle.transformer_lm(g.arrays, g.constants["token_ids"], g.statics["config"])


def _oracle_encoder(g: Given) -> np.ndarray:
    return oracle.transformer_encoder(
        g.arrays, g.constants["token_ids"], g.constants["num_tokens"], g.statics["config"]
    )


def _oracle_prefixed(g: Given) -> np.ndarray:
    c = g.constants
    return oracle.prefix_decoder(
        weights(g), g.arrays["x"], c["token_ids"], c["num_tokens"], g.statics["config"]
    )


def _block_of(**options: Any) -> Layer:
    shapes = ((3, 5, 2, 4, 10), (2, 7, 3, 4, 10), (1, 1, 2, 4, 9))
    return Layer(shapes, partial(draws.block, **options), _oracle_block, whole_model=True)


def _model_of(**options: Any) -> Layer:
    shapes = ((3, 5, 2, 2, 4, 10, 11), (2, 7, 1, 3, 4, 10, 13), (1, 1, 2, 2, 4, 9, 7))
    return Layer(shapes, partial(draws.transformer_lm, **options), _oracle_model, whole_model=True)


_SMALL = ({"shape": (3, 5, 2, 2, 4, 10, 11), "scale": 0.01},)
"""Small hidden states, which show the norms' epsilon."""
_OF_2024 = {"position": "learned", "ffn": "gelu"}
_OF_GPT2 = {"position": "learned", "ffn": "gelu", "norm": "layernorm", "bias": True}

MODELS = (
    subject(
        "transformer_block",
        _block_of(),
        Call("run_transformer_block", _block),
        Call("transformer_block", _own_model("x")),
        rounded=((3, 5, 2, 4, 128), (1, 1, 3, 4, 64)),
    ),
    subject(
        "transformer_block of 2024",
        _block_of(**_OF_2024),
        Call("run_transformer_block", _block_2024, year=2024),
    ),
    subject(
        "transformer_block with post-norm",
        _block_of(norm_position="post"),
        Call("post_norm_block", _own_model("x")),
    ),
    subject(
        "transformer_block in parallel", _block_of(block="parallel"), Call("parallel_block", _own_model("x"))
    ),
    subject("transformer_block of GPT-2", _block_of(**_OF_GPT2), Call("gpt2_block", _own_model("x"))),
    subject(
        "transformer_lm",
        _model_of(),
        Call("run_transformer_lm", _model),
        Call("transformer_lm", _own_model("token_ids")),
        beyond=_SMALL,
        rounded=((3, 5, 2, 2, 4, 128, 11), (2, 1, 1, 3, 4, 64, 13)),
    ),
    subject(
        "transformer_lm of 2024",
        _model_of(**_OF_2024),
        Call("run_transformer_lm", _model_2024, year=2024),
        beyond=_SMALL,
    ),
    subject(
        "transformer_lm with learned positions",
        _model_of(position="learned"),
        Call("learned_position_lm", _own_model("token_ids")),
    ),
    subject(
        "transformer_encoder",
        Layer(((3, 5, 5, 1, 2, 4, 7, 11),), draws.encoder, _oracle_encoder, whole_model=True),
        Call("transformer_encoder", _own_model("token_ids", "num_tokens")),
    ),
    subject(
        "prefix_decoder",
        Layer(((3, 4, 3, 2, 2, 4, 7, 11),), draws.prefix_decoder, _oracle_prefixed, whole_model=True),
        Call("prefix_decoder", _own_model("x", "num_tokens", "token_ids")),
    ),
)
