"""JAX's layers as functions of named arrays, for `lm parity` and tests/parity; the twin of `parity/in_torch.py`."""

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_impl import fast
from jax_impl.attention import (
    Context,
    multihead_self_attention,
    rope,
    scaled_dot_product_attention,
)
from jax_impl.dtypes import Params
from jax_impl.functional import (
    DropoutKey,
    clip_gradients,
    cross_entropy,
    gelu,
    gelu_tanh,
    global_norm,
    relu,
    relu2,
    silu,
    softcap,
    softmax,
    token_cross_entropy,
)
from jax_impl.layers import embedding, geglu, layernorm, linear, rmsnorm, swiglu
from jax_impl.masks import padding_mask
from jax_impl.model import BLOCKS, FEED_FORWARDS, hidden_states, transformer_lm
from jax_impl.optimizer import adamw_init, adamw_update, muon_init, muon_update, sgd_init, sgd_update
from jax_impl.sequences import encoder_decoder, prefix_decoder, transformer_encoder
from jax_impl.trees import nested
from lm.budgets import Dtype
from lm.config import AdamWForm
from lm.init import position_tables, rope_tables
from parity.case import Arrays, Given, array_dtype

JaxArrays = dict[str, Array]


def evaluate(
    layer: str, given: Given, cotangent: np.ndarray | None, dtype: Dtype, mode: str
) -> tuple[Any, Arrays]:
    """Return the layer's output, and the gradients of sum(cotangent * output) with respect to every array.

    Args:
        cotangent: None for no gradients.
        mode: "jit"; "plain", which is jit without the fast forms; or "eager", which has the fast forms but no jit.
    """
    # NumPy changes the types: JAX would compile a program for each shape.
    arrays = {
        name: jax.device_put(a.astype(jnp.dtype(array_dtype(name, dtype))))
        for name, a in given.arrays.items()
    }
    constants = {name: jnp.array(c) for name, c in given.constants.items()}
    if "positions" in constants and "d_head" in given.statics:
        tables = rope_tables(given.statics["theta"], given.statics["d_head"], given.constants["positions"])
        table_dtype = array_dtype("weight", dtype)
        constants["cos"], constants["sin"] = (jnp.array(table, table_dtype) for table in tables)
    statics = given.statics | {"compute_dtype": dtype}
    run = _evaluate if mode == "eager" else _jitted
    is_fast = mode != "plain" or layer in WITHOUT_FORMS
    output, gradients = run(layer, is_fast, tuple(statics.items()), arrays, constants, cotangent)
    return np.asarray(output, np.float64), {n: np.asarray(g, np.float64) for n, g in gradients.items()}


def _evaluate(
    layer: str,
    is_fast: bool,
    statics: tuple[tuple[str, Any], ...],
    arrays: JaxArrays,
    constants: JaxArrays,
    cotangent: np.ndarray | Array | None,
) -> tuple[Array, JaxArrays]:
    with fast.used(is_fast):
        if cotangent is None:
            return LAYERS[layer](arrays, constants, dict(statics)), {}
        output, pull_back = jax.vjp(lambda a: LAYERS[layer](a, constants, dict(statics)), arrays)
        return output, pull_back(jnp.asarray(cotangent).astype(output.dtype))[0]


# The switch is an argument, so that each of its positions has programs of its own.
_jitted = jax.jit(_evaluate, static_argnums=(0, 1, 2))


def _context(c: JaxArrays) -> Context:
    # Every head of a sequence has its positions.
    rope: Any = tuple(jnp.expand_dims(c[name], -3) for name in ("cos", "sin")) if "cos" in c else None
    return Context(c["mask"], rope)


def _clip(a: JaxArrays, max_norm: float) -> Array:
    clipped, _ = clip_gradients(a, max_norm)
    return jnp.concatenate([g.ravel() for g in clipped.values()])


def _steps(a: JaxArrays, init: Callable[..., Any], update: Callable[..., Any]) -> Array:
    params = a["weight"]
    state = init(params)
    for t in range(len(a) - 1):
        params, state = update(a[f"{t}.gradient"], state, params)
    return params


def _adamw(a: JaxArrays, c: JaxArrays, s: dict[str, Any]) -> Array:
    options: dict[str, Any] = {"lr": s["lr"], "weight_decay": 0.1, "form": s["form"]}
    return _steps(a, adamw_init, partial(adamw_update, **options))


def _lm(a: JaxArrays, c: JaxArrays, s: dict[str, Any]) -> Array:
    key = DropoutKey(s["seed"], jnp.int32(s["step"]), c["rows"]) if "rows" in c else None
    starts = c.get("starts")
    return transformer_lm(nested(a), c["token_ids"], s["config"], s["compute_dtype"], key, starts_BT=starts)


def _encoder_stack(params: Params, x_BTD: Array, c: JaxArrays, s: dict[str, Any]) -> Array:
    """Apply an encoder's blocks alone."""
    config, T = s["config"], x_BTD.shape[1]
    tables: Any = position_tables(config, np.arange(T), T, s["compute_dtype"])
    context = Context(padding_mask(c["num_tokens"], T), tables if config.position == "rope" else None)
    return hidden_states(params, x_BTD, config, {"full": context})[0]


def _padded(out_BTD: Array, c: JaxArrays) -> Array:
    """Set the outputs at the padding, which may be anything, to zero."""
    is_token_BT = jnp.arange(out_BTD.shape[1])[None, :] < c["num_tokens"].astype(int)[:, None]
    return jnp.where(jnp.broadcast_to(is_token_BT[..., None], out_BTD.shape), out_BTD, 0)


LAYERS: dict[str, Callable[[JaxArrays, JaxArrays, dict[str, Any]], Array]] = {
    "softmax": lambda a, c, s: softmax(a["x"], s["axis"]),
    "silu": lambda a, c, s: silu(a["x"]),
    "gelu": lambda a, c, s: gelu(a["x"]),
    "gelu_tanh": lambda a, c, s: gelu_tanh(a["x"]),
    "relu": lambda a, c, s: relu(a["x"]),
    "relu2": lambda a, c, s: relu2(a["x"]),
    "softcap": lambda a, c, s: softcap(a["x"], s["cap"]),
    "token_cross_entropy": lambda a, c, s: token_cross_entropy(a["logits"], c["targets"]),
    "token_cross_entropy with z-loss": lambda a, c, s: token_cross_entropy(
        a["logits"], c["targets"], s["z_loss"]
    ),
    "cross_entropy": lambda a, c, s: cross_entropy(a["logits"], c["targets"]),
    "global_norm": lambda a, c, s: global_norm(a),
    "clip_gradients": lambda a, c, s: _clip(a, s["max_norm"]),
    "linear": lambda a, c, s: linear(a, a["x"]),
    "linear with bias": lambda a, c, s: linear(a, a["x"]),
    "embedding": lambda a, c, s: embedding(a, c["token_ids"]),
    "rmsnorm": lambda a, c, s: rmsnorm(a, a["x"], s["eps"]),
    "layernorm": lambda a, c, s: layernorm(a, a["x"], s["eps"]),
    "rmsnorm of 1 + weight": lambda a, c, s: rmsnorm(a, a["x"], s["eps"], offset=s["offset"]),
    "layernorm of 1 + weight": lambda a, c, s: layernorm(a, a["x"], s["eps"], offset=s["offset"]),
    "swiglu": lambda a, c, s: swiglu(nested(a), a["x"]),
    "geglu": lambda a, c, s: geglu(nested(a), a["x"]),
    "feed_forward": lambda a, c, s: FEED_FORWARDS[s["kind"]](nested(a), a["x"]),
    "rope": lambda a, c, s: rope(a["x"], (c["cos"], c["sin"])),
    "scaled_dot_product_attention": lambda a, c, s: scaled_dot_product_attention(
        a["Q"], a["K"], a["V"], c.get("mask")
    ),
    "scaled_dot_product_attention with a cap": lambda a, c, s: scaled_dot_product_attention(
        a["Q"], a["K"], a["V"], c.get("mask"), cap=s["cap"]
    ),
    "multihead_self_attention": lambda a, c, s: multihead_self_attention(
        nested(a), a["x"], _context(c), s["num_heads"]
    )[0],
    "multihead_self_attention with rope": lambda a, c, s: multihead_self_attention(
        nested(a), a["x"], _context(c), s["num_heads"]
    )[0],
    "multihead_self_attention of groups": lambda a, c, s: multihead_self_attention(
        nested(a), a["x"], _context(c), s["num_heads"], qk_norm_eps=s["eps"]
    )[0],
    "multihead_self_attention with a d_head": lambda a, c, s: multihead_self_attention(
        nested(a),
        a["x"],
        _context(c),
        s["num_heads"],
        qk_norm_eps=s["eps"],
        norm_offset=1.0,
        query_factor=(s["d_head"] / s["score_dim"]) ** 0.5,
        score_softcap=s["cap"],
    )[0],
    "transformer_block": lambda a, c, s: BLOCKS[s["config"].block](
        nested(a), a["x"], s["config"], _context(c)
    )[0],
    "transformer_lm": _lm,
    "transformer_lm of the family": _lm,
    "transformer_lm of documents": _lm,
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
    "adamw": _adamw,
    **{f"one step of adamw, {form}": _adamw for form in get_args(AdamWForm)},
    "muon": lambda a, c, s: _steps(a, muon_init, partial(muon_update, lr=s["lr"], weight_decay=0.1)),
    "sgd": lambda a, c, s: _steps(a, sgd_init, partial(sgd_update, lr=s["lr"])),
}

WITHOUT_FORMS = {"softmax", "silu", "gelu", "gelu_tanh", "relu", "relu2", "softcap", "rope", "embedding"}
WITHOUT_FORMS |= {"rmsnorm", "layernorm", "rmsnorm of 1 + weight", "layernorm of 1 + weight"}
WITHOUT_FORMS |= {"global_norm", "clip_gradients", "sgd"}
WITHOUT_FORMS |= {name for name, function in LAYERS.items() if function is _adamw}
"""Layers whose programs are small, and the same with fast forms and without: "plain" takes that of "jit"."""
