"""Draw the arguments of each layer. Weights are never ones, and a shape's sizes differ, so that axes are distinct."""

from dataclasses import replace
from typing import Any

import numpy as np

from lm.config import ModelConfig
from lm.init import parameter_shapes
from parity import oracle
from parity.case import Arrays, Case, Given, Rng, Shape
from parity.family import VARIANTS, without_windows


def _normal(rng: Rng, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape)


def _linear_weight(rng: Rng, d_out: int, d_in: int) -> np.ndarray:
    return rng.standard_normal((d_out, d_in)) * (2 / (d_in + d_out)) ** 0.5


def _norm_weight(rng: Rng, d: int) -> np.ndarray:
    return 1 + 0.3 * rng.standard_normal(d)


def _bias(rng: Rng, d: int) -> np.ndarray:
    return 0.3 * rng.standard_normal(d)


def draw_mask(rng: Rng, case: Case, T: int, S: int) -> Arrays:
    """Draw a mask: causal, none, random, or random with a query that may see nothing."""
    if case.mask == "full":
        return {}
    if case.mask == "causal":
        return {"mask": np.arange(S) <= np.arange(T)[:, None] + S - T}
    mask = rng.random((T, S)) < 0.6
    mask[np.arange(T), rng.integers(0, S, T)] = True
    if case.mask == "empty row":
        mask[rng.integers(T)] = False
    return {"mask": mask}


def _positions(rng: Rng, case: Case, *shape: int) -> Arrays:
    if case.positions == "random":
        return {"positions": rng.integers(0, 2048, shape)}
    return {"positions": np.arange(shape[-1]) + (1000 if case.positions == "from 1000" else 0)}


def softmax(rng: Rng, case: Case) -> Given:
    x = _normal(rng, *case.shape) * case.scale
    axis = -1 - int(rng.integers(x.ndim))
    x *= case.spread_out(np.moveaxis(x, axis, -1))
    return Given({"x": x + case.scale * rng.standard_normal()}, statics={"axis": axis})


def silu(rng: Rng, case: Case) -> Given:
    return Given({"x": _normal(rng, *case.shape) * case.scale * 3})


def softcap(rng: Rng, case: Case) -> Given:
    return silu(rng, case)._replace(statics={"cap": (2.0, 30.0)[case.seed % 2]})


def cross_entropy(rng: Rng, case: Case) -> Given:
    logits = _normal(rng, *case.shape) * case.scale
    logits *= case.spread_out(logits)
    return Given({"logits": logits}, {"targets": rng.integers(0, case.shape[-1], case.shape[:-1])})


def gradients(rng: Rng, case: Case) -> Given:
    return Given({name: _normal(rng, n) * case.scale for name, n in zip("abc", case.shape, strict=False)})


def clip_gradients(rng: Rng, case: Case) -> Given:
    return gradients(rng, case)._replace(statics={"max_norm": (0.5, 2.0, 100.0)[case.seed % 3]})


def linear(rng: Rng, case: Case) -> Given:
    *lead, d_in, d_out = case.shape
    return Given({"x": _normal(rng, *lead, d_in) * case.scale, "weight": _linear_weight(rng, d_out, d_in)})


def linear_with_bias(rng: Rng, case: Case) -> Given:
    given = linear(rng, case)
    return Given(given.arrays | {"bias": _bias(rng, case.shape[-1])})


def embedding(rng: Rng, case: Case) -> Given:
    *lead, vocab_size, d_model = case.shape
    weight = _normal(rng, vocab_size, d_model) * case.scale
    return Given({"weight": weight}, {"token_ids": rng.integers(0, vocab_size, lead)})


def rmsnorm(rng: Rng, case: Case) -> Given:
    x, weight = _normal(rng, *case.shape) * case.scale, _norm_weight(rng, case.shape[-1])
    return Given({"x": x, "weight": weight}, statics={"eps": (1e-5, 1e-2)[case.seed % 2]})


def layernorm(rng: Rng, case: Case) -> Given:
    given = rmsnorm(rng, case)
    return given._replace(arrays=given.arrays | {"bias": _bias(rng, case.shape[-1])})


def with_offset(given: Given) -> Given:
    """Return a norm whose gain is 1 + weight."""
    weight = given.arrays["weight"] - 1
    return given._replace(arrays=given.arrays | {"weight": weight}, statics=given.statics | {"offset": 1.0})


def swiglu(rng: Rng, case: Case) -> Given:
    *lead, D, F = case.shape
    arrays = {
        "x": _normal(rng, *lead, D) * case.scale,
        "w1.weight": _linear_weight(rng, F, D),
        "w2.weight": _linear_weight(rng, D, F),
        "w3.weight": _linear_weight(rng, F, D),
    }
    return Given(arrays)


def feed_forward(rng: Rng, case: Case) -> Given:
    *lead, D, F = case.shape
    kind = ("silu", "gelu", "relu")[case.seed % 3]
    arrays = {"w1.weight": _linear_weight(rng, F, D), "w2.weight": _linear_weight(rng, D, F)}
    if case.seed % 2:
        arrays |= {"w1.bias": _bias(rng, F), "w2.bias": _bias(rng, D)}
    # At 0, where relu's gradient jumps, a rounding would decide. So its input is drawn away from 0, and x follows.
    entering = _normal(rng, *lead, F) * case.scale
    entering += 0.1 * case.scale * np.sign(entering)
    arrays["x"] = (entering - arrays.get("w1.bias", 0.0)) @ np.linalg.pinv(arrays["w1.weight"]).T
    return Given(arrays, statics={"kind": kind})


def rope(rng: Rng, case: Case) -> Given:
    *_, T, K = case.shape
    positions = _positions(rng, case, T)
    statics = {"d_head": K, "theta": (10_000.0, 500_000.0)[case.seed % 2]}
    return Given({"x": _normal(rng, *case.shape) * case.scale}, positions, statics)


def attention(rng: Rng, case: Case) -> Given:
    *lead, T, S, K, V = case.shape
    q, k, v = _normal(rng, *lead, T, K), _normal(rng, *lead, S, K), _normal(rng, *lead, S, V)
    q *= case.scale
    q *= case.spread_out(oracle.attention_scores(q, k))
    return Given({"Q": q, "K": k, "V": v}, draw_mask(rng, case, T, S))


def capped_attention(rng: Rng, case: Case) -> Given:
    """Draw attention whose scores are capped. A causal mask has a window of three keys."""
    *_, T, S, _, _ = case.shape
    given = attention(rng, case)
    if case.mask == "causal":
        given.constants["mask"] &= np.arange(S) > np.arange(T)[:, None] + S - T - 3
    return given._replace(statics={"cap": 2.0})


def _projections(rng: Rng, D: int) -> Arrays:
    return {f"{name}_proj.weight": _linear_weight(rng, D, D) for name in ("q", "k", "v", "output")}


def multihead(rng: Rng, case: Case) -> Given:
    *lead, T, D, num_heads = case.shape
    arrays = {"x": _normal(rng, *lead, T, D)} | _projections(rng, D)
    mask = draw_mask(rng, case, T, T) or {"mask": np.ones((T, T), bool)}
    return Given(arrays, mask, {"num_heads": num_heads})


def grouped(rng: Rng, case: Case) -> Given:
    """Draw attention whose query heads share keys, with biases, and norms of queries and keys."""
    *lead, T, D, num_heads, num_kv_heads = case.shape
    given = multihead(rng, replace(case, shape=(*lead, T, D, num_heads)))
    K = D // num_heads
    for name in "kv":
        given.arrays[f"{name}_proj.weight"] = _linear_weight(rng, K * num_kv_heads, D)
        given.arrays[f"{name}_proj.bias"] = _bias(rng, K * num_kv_heads)
    given.arrays.update({f"{name}_proj.bias": _bias(rng, D) for name in ("q", "output")})
    given.arrays.update({f"{name}_norm.weight": _norm_weight(rng, K) for name in "qk"})
    return given._replace(statics={"num_heads": num_heads, "num_kv_heads": num_kv_heads, "eps": 1e-5})


def own_d_head(rng: Rng, case: Case) -> Given:
    """Draw attention with heads of a width of their own, one norm over all heads, biases of q, k and v, and a cap."""
    *lead, T, D, num_heads, num_kv_heads, K = case.shape
    given = multihead(rng, replace(case, shape=(*lead, T, D, num_heads)))
    for name, rows in (("q", num_heads * K), ("k", num_kv_heads * K), ("v", num_kv_heads * K)):
        given.arrays[f"{name}_proj.weight"] = _linear_weight(rng, rows, D)
        given.arrays[f"{name}_proj.bias"] = _bias(rng, rows)
        if name != "v":
            given.arrays[f"{name}_norm.weight"] = _norm_weight(rng, rows) - 1
    given.arrays["output_proj.weight"] = _linear_weight(rng, D, num_heads * K)
    statics = {
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "d_head": K,
        "theta": 1000.0,
        "eps": 1e-5,
    }
    return Given(
        given.arrays,
        given.constants | _positions(rng, case, *lead, T),
        statics | {"score_dim": 2.0 * K, "cap": 2.0},
    )


def multihead_rope(rng: Rng, case: Case) -> Given:
    *lead, T, D, num_heads = case.shape
    given = multihead(rng, case)
    constants = given.constants | _positions(rng, case, *lead, T)
    return given._replace(
        constants=constants, statics=given.statics | {"d_head": D // num_heads, "theta": 10_000.0}
    )


def model_config(
    layers: int, heads: int, K: int, d_ff: int, context: int, V: int, **options: Any
) -> ModelConfig:
    return ModelConfig(
        vocab_size=V,
        context_length=context,
        d_model=heads * K,
        # Each type of layers in the list occurs.
        num_layers=max(layers, len(options.get("layer_types", ()))),
        num_heads=heads,
        d_ff=d_ff,
        rope_theta=1000.0,
        **options,
    )


def model_weights(rng: Rng, config: ModelConfig) -> Arrays:
    """Draw all weights of a model, norms and biases included; scores and logits spread by about SPREAD at most."""
    is_small = config.tie_embeddings or config.scale_embeddings
    embedding_std = config.d_model**-0.5 if is_small else 0.5 if config.norm == "none" else 1.0

    offset = 1.0 if config.norm_gain == "one_plus_weight" else 0.0

    def draw(name: str, shape: Shape) -> np.ndarray:
        if len(shape) == 1:
            return _bias(rng, *shape) if name.endswith("bias") else _norm_weight(rng, *shape) - offset
        if "embeddings" in name:
            return _normal(rng, *shape) * embedding_std
        # Without norms hidden states would grow from block to block, and scores with their square.
        return _linear_weight(rng, *shape) * (0.5 if config.norm == "none" else 1.0)

    return {name: draw(name, shape) for name, shape in parameter_shapes(config).items()}


def block(rng: Rng, case: Case) -> Given:
    B, T, heads, d_head, d_ff = case.shape
    config = model_config(1, heads, d_head, d_ff, T, 1)
    arrays = {"x": _normal(rng, B, T, config.d_model) * case.scale}
    arrays |= oracle.submodule(model_weights(rng, config), "layers.0.")
    constants = draw_mask(rng, case, T, T) or {"mask": np.ones((T, T), bool)}
    constants |= _positions(rng, case, B, T)
    return Given(arrays, constants, {"config": config, "d_head": d_head, "theta": config.rope_theta})


def transformer_lm(rng: Rng, case: Case, **options: Any) -> Given:
    B, T, layers, heads, d_head, d_ff, V = case.shape
    config = model_config(layers, heads, d_head, d_ff, T + 2, V, **options)
    ids = rng.integers(0, V, (B, T))
    return Given(model_weights(rng, config), {"token_ids": ids}, {"config": config})


DRAW = {"seed": 5, "step": 3}
"""Seed and number of the training step whose dropout is compared."""


def family(rng: Rng, case: Case) -> Given:
    """Draw a model of the family, as in a training step with dropout."""
    given = transformer_lm(rng, case, **VARIANTS[case.seed % len(VARIANTS)])
    rows = np.arange(case.shape[0], dtype=np.int32) + 7
    return given._replace(constants=given.constants | {"rows": rows}, statics=given.statics | DRAW)


def documents(rng: Rng, case: Case) -> Given:
    """Draw a model of the family, as in a training step with dropout, and rows of packed documents."""
    given = family(rng, case)
    places = np.arange(case.shape[1], dtype=np.int32)
    is_start = rng.random(given.constants["token_ids"].shape) < 0.4
    starts = np.maximum.accumulate(np.where(is_start, places, np.int32(0)), axis=-1)
    return given._replace(constants=given.constants | {"starts": starts})


def _sequences(rng: Rng, case: Case, architecture: str) -> Given:
    """Draw a model of the family and sequences of B lengths, with random ids in their padding."""
    B, P, T, layers, heads, d_head, d_ff, V = case.shape
    options = without_windows(VARIANTS[case.seed % len(VARIANTS)]) | {"architecture": architecture}
    if architecture == "encoder_decoder":
        options["prefix_length"] = P + 1
    config = model_config(layers, heads, d_head, d_ff, T + 1, V, **options)
    constants = {
        "token_ids": rng.integers(0, V, (B, T)),
        "num_tokens": rng.permutation(np.linspace(1, P, B).round().astype(np.int32)),
    }
    if architecture == "encoder_decoder":
        constants["prefix"] = rng.integers(0, V, (B, P))
    return Given(model_weights(rng, config), constants, {"config": config})


def encoder(rng: Rng, case: Case) -> Given:
    return _sequences(rng, case, "encoder")


def encoder_decoder(rng: Rng, case: Case) -> Given:
    return _sequences(rng, case, "encoder_decoder")


def _hidden(rng: Rng, case: Case, *shape: int) -> Arrays:
    """Draw the input of the first block. It is small, since there may be no norm before the first scores."""
    return {"x": _normal(rng, *shape) * min(case.scale, 1.0)}


def encoder_stack(rng: Rng, case: Case) -> Given:
    """Draw an encoder without embeddings and head, and x."""
    given = encoder(rng, case)
    ids, config = given.constants.pop("token_ids"), given.statics["config"]
    blocks = {
        name: a for name, a in given.arrays.items() if not name.startswith(("token_", "position_", "lm_"))
    }
    return given._replace(arrays=blocks | _hidden(rng, case, *ids.shape, config.d_model))


def prefix_decoder(rng: Rng, case: Case) -> Given:
    """Draw the decoder of an encoder-decoder, and the hidden states of a prefix."""
    given = encoder_decoder(rng, case)
    shape, config = given.constants.pop("prefix").shape, given.statics["config"]
    arrays = _hidden(rng, case, *shape, config.d_model)
    return given._replace(arrays=arrays | oracle.submodule(given.arrays, "decoder."))


def loss(rng: Rng, case: Case) -> Given:
    given = transformer_lm(rng, case)
    ids = given.constants["token_ids"]
    targets = rng.integers(0, case.shape[-1], ids.shape)
    return given._replace(constants={"token_ids": ids, "targets": targets})


def steps(rng: Rng, case: Case) -> Given:
    arrays = {"weight": _normal(rng, *case.shape)}
    arrays |= {
        f"{t}.gradient": _normal(rng, *case.shape) * case.scale * 10.0 ** rng.integers(-6, 6)
        for t in range(3)
    }
    return Given(arrays, statics={"lr": (1e-4, 7e-3)[case.seed % 2], "form": "course"})


def one_step(rng: Rng, case: Case, form: str) -> Given:
    """Draw a weight and its first gradient.

    An element of the weight is zero, so that its new value is the update, or far larger than the update. Between these
    the update may cancel the weight, and units in the last place mean nothing.
    """
    sizes = rng.uniform(0.5, 2.0, case.shape) * rng.choice([-1, 0, 0, 1], case.shape)
    gradient = _normal(rng, *case.shape) * case.scale * 10.0 ** rng.integers(-8, 6, case.shape)
    arrays = {"weight": sizes, "0.gradient": gradient}
    return Given(arrays, statics={"lr": (1e-4, 7e-3)[case.seed % 2], "form": form})
