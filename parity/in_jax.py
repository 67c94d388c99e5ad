"""The layers as functions of named arrays, for `lm parity` and tests/parity. Beside `parity/in_torch.py`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_impl.attention import multihead_self_attention, padding_mask, rope, scaled_dot_product_attention
from jax_impl.backend import nested
from jax_impl.functional import (
    Draw,
    clip_gradients,
    cross_entropy,
    gelu,
    global_norm,
    relu,
    silu,
    softmax,
    token_cross_entropy,
)
from jax_impl.layers import Params, embedding, layernorm, linear, rmsnorm, swiglu
from jax_impl.model import (
    BLOCKS,
    FEED_FORWARDS,
    encoder_decoder,
    hidden_states,
    prefix_decoder,
    tables_of,
    transformer_encoder,
    transformer_lm,
)
from jax_impl.optimizer import adamw_init, adamw_update, sgd_init, sgd_update
from lm.budgets import Dtype
from lm.init import rope_tables
from parity.case import Arrays, Given, array_dtype

JaxArrays = dict[str, Array]


def evaluate(layer: str, given: Given, cotangent: np.ndarray, dtype: Dtype, mode: str) -> tuple[Any, Arrays]:
    """The layer's output, and the gradients of sum(cotangent * output) with respect to every array.

    Args:
        mode: "eager" or "jit".
    """
    arrays = {name: jnp.array(a, array_dtype(name, dtype)) for name, a in given.arrays.items()}
    constants = {name: jnp.array(c) for name, c in given.constants.items()}
    if "positions" in constants and "d_head" in given.statics:
        tables = rope_tables(given.statics["theta"], given.statics["d_head"], given.constants["positions"])
        table_dtype = array_dtype("weight", dtype)
        constants["cos"], constants["sin"] = (jnp.array(table, table_dtype) for table in tables)
    statics = given.statics | {"compute_dtype": dtype}
    run = _evaluate if mode == "eager" else jax.jit(_evaluate, static_argnums=(0, 1))
    output, gradients = run(layer, tuple(statics.items()), arrays, constants, cotangent)
    return np.asarray(output, np.float64), {n: np.asarray(g, np.float64) for n, g in gradients.items()}


def _evaluate(
    layer: str,
    statics: tuple[tuple[str, Any], ...],
    arrays: JaxArrays,
    constants: JaxArrays,
    cotangent: np.ndarray | Array,
) -> tuple[Array, JaxArrays]:
    output, pull_back = jax.vjp(lambda a: LAYERS[layer](a, constants, dict(statics)), arrays)
    return output, pull_back(jnp.asarray(cotangent).astype(output.dtype))[0]


def _tables(c: JaxArrays, over_heads: bool = True) -> Any:
    return tuple(jnp.expand_dims(c[name], -3) if over_heads else c[name] for name in ("cos", "sin"))


def _clip(a: JaxArrays, max_norm: float) -> Array:
    clipped, _ = clip_gradients(a, max_norm)
    return jnp.concatenate([g.ravel() for g in clipped.values()])


def _steps(a: JaxArrays, init: Callable[..., Any], update: Callable[..., Any]) -> Array:
    params = a["weight"]
    state = init(params)
    for t in range(len(a) - 1):
        params, state = update(a[f"{t}.gradient"], state, params)
    return params


def _lm(a: JaxArrays, c: JaxArrays, s: dict[str, Any]) -> Array:
    draw = Draw(s["seed"], jnp.int32(s["step"]), c["rows"]) if "rows" in c else None
    return transformer_lm(nested(a), c["token_ids"], s["config"], s["compute_dtype"], draw)


def _encoder_stack(params: Params, x_BTD: Array, c: JaxArrays, s: dict[str, Any]) -> Array:
    """An encoder's blocks alone."""
    config, T = s["config"], x_BTD.shape[1]
    tables = tables_of(config, np.arange(T), T, s["compute_dtype"])
    return hidden_states(params, x_BTD, config, padding_mask(c["num_tokens"], T), tables)[0]


def _padded(out_BTD: Array, c: JaxArrays) -> Array:
    """Outputs with zeros at the padding, where they may be anything."""
    is_token_BT = jnp.arange(out_BTD.shape[1])[None, :] < c["num_tokens"].astype(int)[:, None]
    return jnp.where(jnp.broadcast_to(is_token_BT[..., None], out_BTD.shape), out_BTD, 0)


LAYERS: dict[str, Callable[[JaxArrays, JaxArrays, dict[str, Any]], Array]] = {
    "softmax": lambda a, c, s: softmax(a["x"], s["axis"]),
    "silu": lambda a, c, s: silu(a["x"]),
    "gelu": lambda a, c, s: gelu(a["x"]),
    "relu": lambda a, c, s: relu(a["x"]),
    "token_cross_entropy": lambda a, c, s: token_cross_entropy(a["logits"], c["targets"]),
    "cross_entropy": lambda a, c, s: cross_entropy(a["logits"], c["targets"]),
    "global_norm": lambda a, c, s: global_norm(a),
    "clip_gradients": lambda a, c, s: _clip(a, s["max_norm"]),
    "linear": lambda a, c, s: linear(a, a["x"]),
    "linear with bias": lambda a, c, s: linear(a, a["x"]),
    "embedding": lambda a, c, s: embedding(a, c["token_ids"]),
    "rmsnorm": lambda a, c, s: rmsnorm(a, a["x"], s["eps"]),
    "layernorm": lambda a, c, s: layernorm(a, a["x"], s["eps"]),
    "swiglu": lambda a, c, s: swiglu(nested(a), a["x"]),
    "feed_forward": lambda a, c, s: FEED_FORWARDS[s["kind"]](nested(a), a["x"]),
    "rope": lambda a, c, s: rope(a["x"], _tables(c, over_heads=False)),
    "scaled_dot_product_attention": lambda a, c, s: scaled_dot_product_attention(
        a["Q"], a["K"], a["V"], c.get("mask")
    ),
    "multihead_self_attention": lambda a, c, s: multihead_self_attention(
        nested(a), a["x"], s["num_heads"], c["mask"]
    )[0],
    "multihead_self_attention with rope": lambda a, c, s: multihead_self_attention(
        nested(a), a["x"], s["num_heads"], c["mask"], _tables(c)
    )[0],
    "multihead_self_attention of groups": lambda a, c, s: multihead_self_attention(
        nested(a), a["x"], s["num_heads"], c["mask"], qk_norm_eps=s["eps"]
    )[0],
    "transformer_block": lambda a, c, s: BLOCKS[s["config"].block](
        nested(a), a["x"], s["config"], c["mask"], _tables(c)
    )[0],
    "transformer_lm": _lm,
    "transformer_lm of the family": _lm,
    "training loss": lambda a, c, s: cross_entropy(_lm(a, c, s), c["targets"]),
    "encoder_stack": lambda a, c, s: _padded(_encoder_stack(nested(a), a["x"], c, s), c),
    "transformer_encoder": lambda a, c, s: _padded(
        transformer_encoder(nested(a), c["token_ids"], c["num_tokens"], s["config"], s["compute_dtype"]), c
    ),
    "prefix_decoder": lambda a, c, s: prefix_decoder(
        nested(a), a["x"], c["num_tokens"], c["token_ids"], s["config"]
    ),
    "encoder_decoder": lambda a, c, s: encoder_decoder(
        nested(a), c["token_ids"], c["num_tokens"], c["prefix"], s["config"], s["compute_dtype"]
    ),
    "adamw": lambda a, c, s: _steps(a, adamw_init, partial(adamw_update, lr=s["lr"], weight_decay=0.1)),
    "sgd": lambda a, c, s: _steps(a, sgd_init, partial(sgd_update, lr=s["lr"])),
}
