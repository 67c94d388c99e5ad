"""The numbers that both backends start from: initial weights by (seed, name), and tables of positions."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int
from numpy.typing import DTypeLike

from lm.config import ModelConfig
from lm.rng import philox, truncated_normal
from tokenizer.errors import InputError


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every parameter, in forward order. Linear weights are (d_out, d_in)."""
    head = {} if config.tie_embeddings else {"lm_head.weight": (config.vocab_size, config.d_model)}
    if config.architecture != "encoder_decoder":
        return _stack_shapes(config, config.context_length) | head
    assert config.prefix_length is not None  # ModelConfig fills in the sizes that were left out
    halves = {
        "encoder": _stack_shapes(config, config.prefix_length),
        "decoder": _stack_shapes(config, config.context_length) | head,
    }
    return {f"{half}.{name}": shape for half, shapes in halves.items() for name, shape in shapes.items()}


def _stack_shapes(config: ModelConfig, length: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of embeddings (of tokens, and of `length` positions if learned), blocks and final norm."""
    D = config.d_model
    embeddings = {"token_embeddings.weight": (config.vocab_size, D)}
    if config.position == "learned":
        embeddings["position_embeddings.weight"] = (length, D)
    block = _block_shapes(config)
    layers = {f"layers.{i}.{name}": shape for i in range(config.num_layers) for name, shape in block.items()}
    final = _norm_shapes(config, "ln_final") if config.norm_position == "pre" else {}
    return embeddings | layers | final


def _block_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    D, F, K = config.d_model, config.d_ff, config.d_head
    assert F is not None
    assert config.num_kv_heads is not None
    kv = config.num_kv_heads * K
    attention = {"q_proj": (D, D), "k_proj": (kv, D), "v_proj": (kv, D), "output_proj": (D, D)}
    feed_forward = {"w1": (F, D), "w2": (D, F)} | ({"w3": (F, D)} if config.ffn == "swiglu" else {})
    shapes = _norm_shapes(config, "ln1") | _linear_shapes(config, "attn", attention)
    if config.qk_norm:
        shapes |= {"attn.q_norm.weight": (K,), "attn.k_norm.weight": (K,)}
    if config.block == "sequential":
        shapes |= _norm_shapes(config, "ln2")
    return shapes | _linear_shapes(config, "ffn", feed_forward)


def _norm_shapes(config: ModelConfig, name: str) -> dict[str, tuple[int, ...]]:
    leaves = {"rmsnorm": ("weight",), "layernorm": ("weight", "bias"), "none": ()}[config.norm]
    return {f"{name}.{leaf}": (config.d_model,) for leaf in leaves}


def _linear_shapes(
    config: ModelConfig, prefix: str, weights: dict[str, tuple[int, int]]
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (d_out, d_in) in weights.items():
        shapes[f"{prefix}.{name}.weight"] = (d_out, d_in)
        if config.bias:
            shapes[f"{prefix}.{name}.bias"] = (d_out,)
    return shapes


@dataclass(frozen=True)
class InitialWeight:
    """An initial weight. It is a pure function of its fields, and its slices are drawn on demand.

    Linear: N(0, 2 / (d_in + d_out)) truncated at 3 standard deviations (Glorot and Bengio, 2010, eq. 16).
    Embedding: N(0, embedding_std^2) truncated at 3. Gains: ones. Biases: zeros.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    seed: int
    embedding_std: float = 1.0
    block: int = 1 << 23
    """Largest number of elements to draw at once, in whole rows and at least one. Each block has its own stream."""

    def __getitem__(self, index: Any, /) -> np.ndarray:
        """Return the slice at a tuple of slices; `...` gives the whole weight. Draw only the blocks that it touches."""
        part = np.empty(np.broadcast_to(0, self.shape)[index].shape, self.dtype)
        if len(self.shape) == 1:
            part[...] = 0 if self.name.endswith("bias") else 1
        elif part.size:
            rows, *columns = (slice(None),) if index in (..., ()) else index
            start, stop, _ = rows.indices(self.shape[0])
            height = max(1, self.block // self.shape[1])
            for first in range(start - start % height, stop, height):
                low, high = max(start, first), min(stop, first + height)
                drawn = self._draw(first // height, min(height, self.shape[0] - first))
                part[low - start : high - start] = drawn[low - first : high - first, *columns]
        return part

    def _draw(self, number: int, rows: int) -> Float64[np.ndarray, "rows d_in"]:
        """Draw a block by its number."""
        std = self.embedding_std if "embeddings" in self.name else (2.0 / sum(self.shape)) ** 0.5
        generator = philox(self.seed, f"init/{self.name}", number)
        z = truncated_normal(generator, rows * self.shape[1], limit=3.0)
        return (std * z).reshape(rows, -1)


def initial_weights(config: ModelConfig, seed: int, dtype: str) -> Iterator[tuple[str, InitialWeight]]:
    """Yield the weights before the first step, by name.

    Tied embeddings start smaller, by d_model^-0.5, so that the logits have a standard deviation of about 1.
    """
    embedding_std = config.d_model**-0.5 if config.tie_embeddings else 1.0
    for name, shape in parameter_shapes(config).items():
        yield name, InitialWeight(name, shape, np.dtype(dtype), seed, embedding_std)


def optimizer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every leaf of AdamW's state: both moments of each weight, and the step count."""
    shapes = parameter_shapes(config)
    return {f"{moment}.{name}": shape for moment in "mv" for name, shape in shapes.items()} | {"step": ()}


def initial_moments(config: ModelConfig, dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield AdamW's state before the first step: zeros. Each leaf takes the memory of one number."""
    for name, shape in optimizer_shapes(config).items():
        yield name, np.broadcast_to(np.zeros((), np.int32 if name == "step" else dtype), shape)


def rope_tables(
    theta: float, d_head: int, positions: Int[np.ndarray, "*T"]
) -> tuple[Float[np.ndarray, "*T P"], Float[np.ndarray, "*T P"]]:
    """Return cosines and sines of position * theta^(-2p / d_head), p < P = d_head / 2 (Su et al., 2021, eq. 15).

    They are float64; the caller casts them. Angles computed in float32 would be off by 4e-6 at position 1,024.
    """
    frequencies = theta ** (-np.arange(0, d_head, 2) / d_head)
    angles = positions[..., None].astype(np.float64) * frequencies
    return np.cos(angles), np.sin(angles)


def sinusoidal_table(d_model: int, positions: Int[np.ndarray, "*T"]) -> Float64[np.ndarray, "*T D"]:
    """Return sin and cos of position / 10,000^(2i / d_model) at 2i and 2i + 1 (Vaswani et al., 2017, section 3.5).

    The angles are those of RoPE's tables. The table is float64; the caller casts it.
    """
    cos, sin = rope_tables(10_000.0, d_model, positions)
    return np.stack((sin, cos), axis=-1).reshape(*positions.shape, -1)[..., :d_model]


def position_tables(
    config: ModelConfig, positions: Int[np.ndarray, "*T"], length: int, dtype: DTypeLike = np.float64
) -> tuple[np.ndarray, ...]:
    """Return what a model needs of these positions: cosines and sines, sinusoids, rows of an embedding, or nothing.

    Args:
        length: Number of learned positions.
        dtype: Type of the floating-point tables, which are computed in float64.

    Raises:
        InputError: a position is beyond the `length` learned ones.
    """
    match config.position:
        case "rope":
            cos, sin = rope_tables(config.rope_theta, config.d_head, positions)
            return cos.astype(dtype), sin.astype(dtype)
        case "sinusoidal":
            return (sinusoidal_table(config.d_model, positions).astype(dtype),)
        case "learned":
            if positions.max(initial=-1) >= length:
                raise InputError(
                    f"position {positions.max()} has no embedding: the model learned {length}; give it fewer tokens"
                )
            return (positions,)
    return ()
