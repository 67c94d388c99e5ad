"""The Transformer: blocks of attention and feed-forward on one residual stream, and the language model."""

from collections.abc import Callable

import numpy as np

from lm.config import ModelConfig
from lm.dropout import dropout_mask
from parity.oracle.attention import causal_mask, multihead_self_attention
from parity.oracle.gradients import Weights
from parity.oracle.layers import embedding, feed_forward, layernorm, linear, rmsnorm

Drop = Callable[[np.ndarray, float, str], np.ndarray]
"""What training does to an array in a step: (array, rate, place) -> array."""
Sublayer = Callable[[np.ndarray], np.ndarray]


def submodule(weights: Weights, prefix: str) -> dict[str, np.ndarray]:
    """Return the weights whose names start with the prefix, by their names without it."""
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def norm(weights: Weights, name: str, x: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Apply the config's norm, with the weights of this name."""
    if config.norm == "none":
        return x
    if config.norm == "rmsnorm":
        return rmsnorm(x, weights[f"{name}.weight"], config.norm_eps)
    return layernorm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], config.norm_eps)


def residual_stream(
    x: np.ndarray,
    attend: Sublayer,
    feed: Sublayer,
    ln: Callable[[int, np.ndarray], np.ndarray],
    config: ModelConfig,
) -> np.ndarray:
    """Arrange a block's sublayers and its norms `ln(1, x)` and `ln(2, x)` on the residual stream x."""
    match config.norm_position, config.block:
        case "pre", "sequential":
            x = x + attend(ln(1, x))
            return x + feed(ln(2, x))
        case "post", "sequential":
            x = ln(1, x + attend(x))
            return ln(2, x + feed(x))
        case "pre", "parallel":
            normed = ln(1, x)
            return x + attend(normed) + feed(normed)
    return ln(1, x + attend(x) + feed(x))


def transformer_block(
    weights: Weights,
    x: np.ndarray,
    config: ModelConfig,
    mask: np.ndarray,
    positions: np.ndarray,
    drop: Drop = lambda x, rate, place: x,
) -> np.ndarray:
    """Apply one of four blocks: pre-norm or post-norm, with attention before or beside feed-forward."""

    def attend(x: np.ndarray) -> np.ndarray:
        y = multihead_self_attention(
            submodule(weights, "attn."),
            x,
            config.num_heads,
            mask,
            positions if config.position == "rope" else None,
            config.rope_theta,
            config.norm_eps,
            lambda w: drop(w, config.attention_dropout, "weights"),
        )
        return drop(y, config.residual_dropout, "attn")

    def feed(x: np.ndarray) -> np.ndarray:
        return drop(feed_forward(submodule(weights, "ffn."), x, config.ffn), config.residual_dropout, "ffn")

    def ln(i: int, x: np.ndarray) -> np.ndarray:
        return norm(weights, f"ln{i}", x, config)

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
    """Return the embeddings of the tokens plus those of their positions, which by default count from 0."""
    if positions is None:
        positions = np.arange(token_ids.shape[-1])
    x = embedding(weights["token_embeddings.weight"], token_ids)
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
        x = transformer_block(layer, x, config, mask, positions, drop_in_layer)
    return norm(weights, "ln_final", x, config) if config.norm_position == "pre" else x


def logits(weights: Weights, x: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Apply the head, whose weight tied models share with their embeddings."""
    return linear(x, weights["token_embeddings.weight" if config.tie_embeddings else "lm_head.weight"])


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
