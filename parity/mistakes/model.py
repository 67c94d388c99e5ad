"""Mistakes of the model: its layers, head, embeddings and positions."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from lm.config import ModelConfig
from parity.mistakes.mistake import mistake
from parity.oracle import model, replaced
from parity.oracle.gradients import Weights
from parity.oracle.layers import embedding
from parity.oracle.model import embed, hidden_states, logits, norm, submodule, transformer_block

MODEL = "lm_head(ln_final(layer_n(... layer_1(token_embeddings[ids]))))"
LEARNED = "x = token_embeddings[ids] + position_embeddings[0 .. T - 1]"
SINUSOIDS = "sin(t / 10000^(2p/D)) in column 2p, cos of that angle in column 2p + 1"
RADFORD = "Radford et al., 2019, section 2.3"
VASWANI = "Vaswani et al., 2017, section 3.5"

of_model = partial(mistake, formula=MODEL, source=RADFORD)


def in_order(order: Callable[[int], list[int]]) -> Callable[..., np.ndarray]:
    """Return hidden states after the layers of this order, as a function of their number. No layer: the last norm."""

    def variant(
        weights: Weights, x: np.ndarray, config: ModelConfig, *args: Any, **options: Any
    ) -> np.ndarray:
        layers = order(config.num_layers)
        if not layers:
            return model.norm(weights, "ln_final", x, config) if config.norm_position != "post" else x
        moved = {name: w for name, w in weights.items() if not name.startswith("layers.")}
        for i, j in enumerate(layers):
            layer = submodule(weights, f"layers.{j}.")
            moved |= {f"layers.{i}.{name}": w for name, w in layer.items()}
        return hidden_states(moved, x, replace(config, num_layers=len(layers)), *args, **options)

    return variant


@of_model("layers reversed", "hidden_states")
def _(*args: Any, **options: Any) -> np.ndarray:
    """The layers run from the last to the first. Their weights are in the wrong order."""
    return in_order(lambda n: list(range(n))[::-1])(*args, **options)


@of_model("first layer's weights for all layers", "hidden_states")
def _(*args: Any, **options: Any) -> np.ndarray:
    """Every layer has the first layer's weights, as with [block] * n. The others' get no gradient."""
    return in_order(lambda n: [0] * n)(*args, **options)


@of_model("last layer's weights for all layers", "hidden_states")
def _(*args: Any, **options: Any) -> np.ndarray:
    """Every layer has the last layer's weights: a loop loads all of them into one block.
    The others' get no gradient."""
    return in_order(lambda n: [n - 1] * n)(*args, **options)


@of_model("last layer skipped", "hidden_states")
def _(*args: Any, **options: Any) -> np.ndarray:
    """The loop over the layers ends one too early. The last layer's weights get no gradient."""
    return in_order(lambda n: list(range(n - 1)))(*args, **options)


@of_model("first layer skipped", "hidden_states")
def _(*args: Any, **options: Any) -> np.ndarray:
    """The loop over the layers starts at 1. The first layer's weights get no gradient."""
    return in_order(lambda n: list(range(1, n)))(*args, **options)


@of_model("final norm missing", "norm")
def without_final_norm(weights: Weights, name: str, x: np.ndarray, config: ModelConfig) -> np.ndarray:
    """The head reads the stream without ln_final. Logits grow with the depth."""
    return x if name == "ln_final" else norm(weights, name, x, config)


for _eps in (1e-6, 1e-8):

    @of_model(f"final norm: epsilon {_eps:.0e}", "norm", accepted=True)
    def _(weights: Weights, name: str, x: np.ndarray, config: ModelConfig, own: float = _eps) -> np.ndarray:
        """ln_final has this epsilon, and the course's model has 1e-5 in all its norms.
        Only small hidden states show it."""
        return norm(weights, name, x, replace(config, norm_eps=own) if name == "ln_final" else config)


@of_model("final norm after every layer", "hidden_states")
def _(weights: Weights, x: np.ndarray, config: ModelConfig, *args: Any, **options: Any) -> np.ndarray:
    """ln_final stands inside the loop over the layers, an indentation too deep. Each layer reads a normed stream."""

    def normed_block(*of_block: Any, **more: Any) -> np.ndarray:
        return norm(weights, "ln_final", transformer_block(*of_block, **more), config)

    if config.norm_position == "post":
        return hidden_states(weights, x, config, *args, **options)
    with replaced("norm", without_final_norm), replaced("transformer_block", normed_block):
        return hidden_states(weights, x, config, *args, **options)


@of_model("head tied to the embeddings", "logits")
def _(weights: Weights, x: np.ndarray, config: ModelConfig) -> np.ndarray:
    """The logits are products with the token embeddings, though the model has a head of its own. lm_head gets no
    gradient."""
    return logits(weights, x, replace(config, tie_embeddings=True))


@of_model("softmax applied to the logits", "logits")
def _(weights: Weights, x: np.ndarray, config: ModelConfig) -> np.ndarray:
    """The model returns probabilities in place of logits. The loss then takes a softmax of a softmax."""
    y = logits(weights, x, config)
    exp = np.exp(y - y.real.max(-1, keepdims=True))
    return np.asarray(exp / exp.sum(-1, keepdims=True))


@of_model("log-softmax applied to the logits", "logits")
def _(weights: Weights, x: np.ndarray, config: ModelConfig) -> np.ndarray:
    """The model returns log-probabilities in place of logits.
    Loss and samples are right, but the logits are shifted."""
    y = logits(weights, x, config)
    y = y - y.real.max(-1, keepdims=True)
    return np.asarray(y - np.log(np.exp(y).sum(-1, keepdims=True)))


@of_model("logits divided by the root of d_model", "logits")
def _(weights: Weights, x: np.ndarray, config: ModelConfig) -> np.ndarray:
    """The hidden states are scaled by 1/sqrt(d_model) before the head, as T5 does for tied weights.
    Logits are too flat."""
    return logits(weights, x / config.d_model**0.5, config)


@of_model("embeddings scaled by the root of d_model, positions not", "embed")
def _(weights: Weights, token_ids: np.ndarray, config: ModelConfig, *args: Any, **options: Any) -> np.ndarray:
    """The token embeddings are multiplied by sqrt(d_model) before positions are added to them, as in the first
    Transformer. This model adds both as they are."""
    if config.position in ("learned", "sinusoidal"):
        scaled = weights["token_embeddings.weight"] * config.d_model**0.5
        weights = {**weights, "token_embeddings.weight": scaled}
    return embed(weights, token_ids, config, *args, **options)


of_learned = partial(mistake, replaces="embed", formula=LEARNED, source=RADFORD)


def with_positions(rows: Callable[[np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
    """Return embeddings whose learned positions are a function of the table's axis of positions."""

    def variant(
        weights: Weights, token_ids: np.ndarray, config: ModelConfig, *args: Any, **options: Any
    ) -> np.ndarray:
        name = "position_embeddings.weight"
        if config.position == "learned":
            weights = {**weights, name: weights[name][..., rows(np.arange(weights[name].shape[-2])), :]}
        return embed(weights, token_ids, config, *args, **options)

    return variant


@of_learned("learned positions from 1", pitfall="Learned positions that end")
def _(*args: Any, **options: Any) -> np.ndarray:
    """The first token takes row 1 of the table of positions.
    Row 0 is never used, and the longest text has no last row."""
    return with_positions(lambda t: np.roll(t, -1))(*args, **options)


@of_learned("first learned position for all tokens")
def _(*args: Any, **options: Any) -> np.ndarray:
    """Row 0 of the table of positions is added to all tokens. The model does not know their order."""
    return with_positions(np.zeros_like)(*args, **options)


@of_learned("learned positions missing")
def _(weights: Weights, token_ids: np.ndarray, config: ModelConfig, *args: Any, **options: Any) -> np.ndarray:
    """The position embeddings are not added. The model does not know the order of the tokens."""
    if config.position == "learned":
        config = replace(config, position="none")
    return embed(weights, token_ids, config, *args, **options)


@of_learned("learned positions by the place in the batch")
def _(weights: Weights, token_ids: np.ndarray, config: ModelConfig, *args: Any, **options: Any) -> np.ndarray:
    """The positions are counted along the axis of the batch, not along that of the sequence.
    All tokens of a text take one row of the table."""
    if config.position != "learned" or token_ids.ndim < 2:
        return embed(weights, token_ids, config, *args, **options)
    x = embed(weights, token_ids, replace(config, position="none"), *args, **options)
    return x + embedding(weights["position_embeddings.weight"], np.arange(len(token_ids))[:, None])


of_sinusoids = partial(mistake, replaces="sinusoids", formula=SINUSOIDS, source=VASWANI)


def _angles(d_model: int, positions: np.ndarray) -> np.ndarray:
    """Return the angle of each pair of columns."""
    return np.asarray(positions[..., None] / 10_000 ** (np.arange(0, d_model, 2) / d_model))


@of_sinusoids("cosines before sines")
def _(d_model: int, positions: np.ndarray) -> np.ndarray:
    """Even columns hold cosines and odd ones sines. The paper has them the other way."""
    angles = _angles(d_model, positions)
    return np.stack((np.cos(angles), np.sin(angles)), -1).reshape(*positions.shape, -1)[..., :d_model]


@of_sinusoids("sines and cosines in halves")
def _(d_model: int, positions: np.ndarray) -> np.ndarray:
    """The first half of the columns holds sines and the second half cosines. The paper interleaves them."""
    angles = _angles(d_model, positions)
    return np.concatenate((np.sin(angles), np.cos(angles)), -1)[..., :d_model]


@of_sinusoids("a frequency for each column")
def _(d_model: int, positions: np.ndarray) -> np.ndarray:
    """The exponent counts columns, not pairs, so a sine and its cosine have different frequencies.
    A shift is then no rotation."""
    columns = np.arange(d_model)
    angles = positions[..., None] / 10_000 ** (columns / d_model)
    return np.where(columns % 2, np.cos(angles), np.sin(angles))
