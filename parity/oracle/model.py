"""The Transformer: blocks of attention and feed-forward on one residual stream, and the language model."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from lm.config import ModelConfig
from lm.dropout import dropout_mask
from parity.oracle.attention import causal_mask, multihead_self_attention, window_mask
from parity.oracle.functional import softcap
from parity.oracle.gradients import Weights
from parity.oracle.layers import embedding, feed_forward, layernorm, linear, rmsnorm

Drop = Callable[[np.ndarray, float, str], np.ndarray]
"""What training does to an array in a step: (array, rate, place) -> array."""
Sublayer = Callable[[np.ndarray], np.ndarray]
Norms = Callable[[int | str, np.ndarray], np.ndarray]
"""A block's norms by their names without "ln": (name, x) -> x."""


def submodule(weights: Weights, prefix: str) -> dict[str, np.ndarray]:
    """Return the weights whose names start with the prefix, by their names without it."""
    return {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}


def norm(weights: Weights, name: str, x: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Apply the config's norm, with the weights of this name."""
    if config.norm == "none":
        return x
    g = gain(weights[f"{name}.weight"], config)
    if config.norm == "rmsnorm":
        return rmsnorm(x, g, config.norm_eps)
    return layernorm(x, g, weights[f"{name}.bias"], config.norm_eps)


def gain(weight: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Return what a norm with this weight multiplies by."""
    return 1 + weight if config.norm_gain == "one_plus_weight" else weight


def residual_stream(
    x: np.ndarray,
    attend: Sublayer,
    feed: Sublayer,
    ln: Norms,
    config: ModelConfig,
) -> np.ndarray:
    """Arrange a block's sublayers and its norms, such as `ln(1, x)`, on the residual stream x."""
    match config.norm_position, config.block:
        case "pre", "sequential":
            x = x + attend(ln(1, x))
            return x + feed(ln(2, x))
        case "post", "sequential":
            x = ln(1, x + attend(x))
            return ln(2, x + feed(x))
        case "branch", "sequential":
            x = x + ln(1, attend(x))
            return x + ln(2, feed(x))
        case "sandwich", "sequential":
            x = x + ln("1_after", attend(ln(1, x)))
            return x + ln("2_after", feed(ln(2, x)))
        case "pre", "parallel":
            normed = ln(1, x)
            return x + attend(normed) + feed(normed)
        case "branch", "parallel":
            return x + ln(1, attend(x) + feed(x))
        case "sandwich", "parallel":
            normed = ln(1, x)
            return x + ln("1_after", attend(normed) + feed(normed))
    return ln(1, x + attend(x) + feed(x))


def rope_stretch(config: ModelConfig) -> list[float] | None:
    """Return by how much the wavelength of each of RoPE's pairs is stretched; None if none is.

    linear stretches all by the factor. llama3 leaves the short ones, stretches the long ones by the factor, and gives
    those between them a weighted mean of both frequencies.
    """
    if config.rope_scaling == "none":
        return None
    K, factor = config.d_head, config.rope_factor
    assert K is not None
    if config.rope_scaling == "linear":
        return [factor] * (K // 2)
    stretch = []
    for p in range(K // 2):
        wavelength = 2 * math.pi * config.rope_theta ** (2 * p / K)
        turns = config.rope_original_context / wavelength
        if turns > config.rope_high_freq_factor:
            stretch.append(1.0)
        elif turns < config.rope_low_freq_factor:
            stretch.append(factor)
        else:
            # How far from the lowest of these frequencies to the highest.
            share = (turns - config.rope_low_freq_factor) / (
                config.rope_high_freq_factor - config.rope_low_freq_factor
            )
            stretch.append(1 / (share * 1.0 + (1 - share) / factor))
    return stretch


def config_of_layer(config: ModelConfig, i: int) -> ModelConfig:
    """Return the config with the RoPE of layer i."""
    if config.layer_type(i) == "full" or config.sliding_rope_theta is None:
        return config
    return replace(config, rope_theta=config.sliding_rope_theta, rope_scaling="none")


def mask_of_layer(mask: np.ndarray, config: ModelConfig, i: int) -> np.ndarray:
    """Return the mask of layer i, from that of all layers."""
    if config.layer_type(i) == "full" or config.sliding_window is None:
        return mask
    return mask & window_mask(mask.shape[-1], config.sliding_window)


def transformer_block(
    weights: Weights,
    x: np.ndarray,
    config: ModelConfig,
    mask: np.ndarray,
    positions: np.ndarray,
    drop: Drop = lambda x, rate, place: x,
) -> np.ndarray:
    """Apply one of eight blocks: four positions of the norms, with attention before or beside feed-forward."""
    options = {
        "stretch": rope_stretch(config),
        "cap": config.score_softcap,
        "score_dim": config.score_dim,
    }
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    of_attention = {
        name: gain(w, config) if "norm" in name else w for name, w in submodule(weights, "attn.").items()
    }

    def attend(x: np.ndarray) -> np.ndarray:
        y = multihead_self_attention(
            of_attention,
            x,
            config.num_heads,
            mask,
            positions if config.position == "rope" else None,
            config.rope_theta,
            config.norm_eps,
            lambda w: drop(w, config.attention_dropout, "weights"),
            **given,
        )
        return drop(y, config.residual_dropout, "attn")

    def feed(x: np.ndarray) -> np.ndarray:
        return drop(feed_forward(submodule(weights, "ffn."), x, config.ffn), config.residual_dropout, "ffn")

    def ln(name: int | str, x: np.ndarray) -> np.ndarray:
        return norm(weights, f"ln{name}", x, config)

    return residual_stream(x, attend, feed, ln, config)


def sinusoids(d_model: int, positions: np.ndarray) -> np.ndarray:
    """Sines and cosines of the positions (Vaswani et al., 2017, section 3.5), an element at a time."""
    table = np.zeros((*positions.shape, d_model))
    for j in range(d_model):
        angle = positions / 10_000 ** ((j - j % 2) / d_model)
        table[..., j] = np.cos(angle) if j % 2 else np.sin(angle)
    return table


def make_drop(seed: int, step: int, rows: np.ndarray) -> Drop:
    """Return what a step drops of the rows with these indices in its batch, by the masks of `lm.dropout`."""

    def drop(x: np.ndarray, rate: float, place: str) -> np.ndarray:
        if rate == 0:
            return x
        shape = x.shape[-3:] if place.endswith("weights") else x.shape[-2:]
        return x * dropout_mask(seed, place, step, rows, shape, rate) / (1 - rate)

    return drop


def embed(
    weights: Weights, token_ids: np.ndarray, config: ModelConfig, positions: np.ndarray | None = None
) -> np.ndarray:
    """Return the embeddings of the tokens plus those of their positions, which by default count from 0.

    The embeddings of tokens may be scaled; those of positions never are.
    """
    if positions is None:
        positions = np.arange(token_ids.shape[-1])
    x = embedding(weights["token_embeddings.weight"], token_ids)
    if config.scale_embeddings:
        x = x * math.sqrt(config.d_model)
    if config.position == "learned":
        x = x + embedding(weights["position_embeddings.weight"], positions)
    if config.position == "sinusoidal":
        x = x + sinusoids(config.d_model, positions)
    return x


def hidden_states(
    weights: Weights,
    x: np.ndarray,
    config: ModelConfig,
    mask: np.ndarray,
    drop: Drop = lambda x, rate, place: x,
    positions: np.ndarray | None = None,
) -> np.ndarray:
    """Apply all blocks and the last norm. RoPE's positions by default count from 0."""
    if positions is None:
        positions = np.arange(mask.shape[-1])
    for i in range(config.num_layers):

        def drop_in_layer(x: np.ndarray, rate: float, place: str, i: int = i) -> np.ndarray:
            return drop(x, rate, f"layers.{i}.{place}")

        layer = submodule(weights, f"layers.{i}.")
        mask_of_i = mask_of_layer(mask, config, i)
        x = transformer_block(layer, x, config_of_layer(config, i), mask_of_i, positions, drop_in_layer)
    return x if config.norm_position == "post" else norm(weights, "ln_final", x, config)


def logits(weights: Weights, x: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Apply the head, whose weight tied models share with their embeddings, and cap the logits if there is a cap."""
    y = linear(x, weights["token_embeddings.weight" if config.tie_embeddings else "lm_head.weight"])
    return y if config.logit_softcap is None else softcap(y, config.logit_softcap)


def transformer_lm(
    weights: Weights,
    token_ids: np.ndarray,
    config: ModelConfig,
    drop: Drop = lambda x, rate, place: x,
    starts: np.ndarray | None = None,
) -> np.ndarray:
    """Token ids (B, T) to logits (B, T, V) of the next token.

    Args:
        starts: The index at which each token's document starts (B, T). By default a row is one document.
    """
    mask, positions = causal_mask(token_ids.shape[1]), np.arange(token_ids.shape[1])
    if starts is not None:
        mask = mask & (starts[..., :, None] == starts[..., None, :])
        positions = positions - starts
    x = drop(embed(weights, token_ids, config, positions), config.embedding_dropout, "embedding")
    return logits(weights, hidden_states(weights, x, config, mask, drop, positions), config)
