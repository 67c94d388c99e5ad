"""The numbers that both backends start from: initial weights by (seed, name), and tables of positions."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int
from numpy.typing import DTypeLike

from lm.config import LayerType, ModelConfig, OptimizerConfig
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
    final = _norm_shapes(config, "ln_final") if config.norm_position != "post" else {}
    return embeddings | layers | final


def _block_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    D, F, K = config.d_model, config.d_ff, config.d_head
    assert F is not None
    assert K is not None
    assert config.num_kv_heads is not None
    heads, kv = config.num_heads * K, config.num_kv_heads * K
    queries_keys_values = {"q_proj": (heads, D), "k_proj": (kv, D), "v_proj": (kv, D)}
    feed_forward = {"w1": (F, D), "w2": (D, F)} | ({"w3": (F, D)} if config.has_gate else {})
    shapes = _norm_shapes(config, "ln1")
    shapes |= _linear_shapes("attn", queries_keys_values, config.has_bias_of_qkv)
    shapes |= _linear_shapes("attn", {"output_proj": (D, heads)}, config.has_bias_of_output)
    if config.qk_norm:
        over_head = config.qk_norm_over == "head"
        shapes["attn.q_norm.weight"] = (K if over_head else heads,)
        shapes["attn.k_norm.weight"] = (K if over_head else kv,)
    if config.norm_position == "sandwich":
        shapes |= _norm_shapes(config, "ln1_after")
    if config.block == "sequential":
        shapes |= _norm_shapes(config, "ln2")
    shapes |= _linear_shapes("ffn", feed_forward, config.bias)
    if config.norm_position == "sandwich" and config.block == "sequential":
        shapes |= _norm_shapes(config, "ln2_after")
    return shapes


def _norm_shapes(config: ModelConfig, name: str) -> dict[str, tuple[int, ...]]:
    leaves = {"rmsnorm": ("weight",), "layernorm": ("weight", "bias"), "none": ()}[config.norm]
    return {f"{name}.{leaf}": (config.d_model,) for leaf in leaves}


def _linear_shapes(
    prefix: str, weights: dict[str, tuple[int, int]], bias: bool
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (d_out, d_in) in weights.items():
        shapes[f"{prefix}.{name}.weight"] = (d_out, d_in)
        if bias:
            shapes[f"{prefix}.{name}.bias"] = (d_out,)
    return shapes


@dataclass(frozen=True)
class InitialWeight:
    """An initial weight. It is a pure function of its fields, and its slices are drawn on demand.

    Linear: N(0, 2 / (d_in + d_out)) truncated at 3 standard deviations (Glorot and Bengio, 2010, eq. 16).
    Embedding: N(0, embedding_std^2) truncated at 3. Gains: `gain`. Biases: zeros.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    seed: int
    embedding_std: float = 1.0
    gain: float = 1.0
    block: int = 1 << 23
    """Largest number of elements to draw at once, in whole rows and at least one. Each block has its own stream."""

    def __getitem__(self, index: Any, /) -> np.ndarray:
        """Return the slice at a tuple of slices; `...` gives the whole weight. Draw only the blocks that it touches."""
        part = np.empty(np.broadcast_to(0, self.shape)[index].shape, self.dtype)
        if len(self.shape) == 1:
            part[...] = 0 if self.name.endswith("bias") else self.gain
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

    Embeddings that are tied, or multiplied by sqrt(d_model), start smaller, by d_model^-0.5: logits, or the residual
    stream, then have a standard deviation of about 1.
    """
    embedding_std = config.d_model**-0.5 if config.tie_embeddings or config.scale_embeddings else 1.0
    gain = 1.0 if config.norm_gain == "weight" else 0.0
    for name, shape in parameter_shapes(config).items():
        yield name, InitialWeight(name, shape, np.dtype(dtype), seed, embedding_std, gain)


def muon_names(config: ModelConfig, optimizer: OptimizerConfig) -> list[str]:
    """Return the names of the parameters that Muon updates: the matrices of the blocks, if the optimizer is Muon."""
    if optimizer.kind == "adamw":
        return []
    return [n for n, shape in parameter_shapes(config).items() if "layers." in n and len(shape) == 2]


def optimizer_shapes(
    config: ModelConfig, optimizer: OptimizerConfig | None = None
) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every leaf of an optimizer's state.

    They are both moments of each weight, and the step count. A weight that Muon updates has a first moment alone. If
    the weights are averaged, there is an average of each.

    Args:
        optimizer: By default AdamW.
    """
    optimizer = optimizer or OptimizerConfig()
    shapes, of_muon = parameter_shapes(config), muon_names(config, optimizer)
    first = {f"m.{name}": shape for name, shape in shapes.items()}
    second = {f"v.{name}": shape for name, shape in shapes.items() if name not in of_muon}
    averages = {f"average.{name}": shape for name, shape in shapes.items()}
    return first | second | (averages if optimizer.average_decay else {}) | {"step": ()}


def initial_moments(
    config: ModelConfig, dtype: str, optimizer: OptimizerConfig | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield an optimizer's state before the first step: zeros. Each leaf takes the memory of one number.

    Averages are left out: they start as the weights.
    """
    for name, shape in optimizer_shapes(config, optimizer).items():
        if name.startswith("average."):
            continue
        yield name, np.broadcast_to(np.zeros((), np.int32 if name == "step" else dtype), shape)


def rope_frequencies(theta: float, d_head: int) -> Float64[np.ndarray, " P"]:
    """Return theta^(-2p / d_head), p < P = d_head / 2, in radians a token (Su et al., 2021, eq. 15)."""
    return theta ** (-np.arange(0, d_head, 2) / d_head)


def scaled_frequencies(
    config: ModelConfig, frequencies: Float64[np.ndarray, " P"]
) -> Float64[np.ndarray, " P"]:
    """Return RoPE's frequencies, stretched for a longer context as the config says.

    linear divides all frequencies by the factor (Chen et al., 2023, eq. 4). llama3 leaves wavelengths that fit
    high_freq_factor times into the original context, divides those that fit fewer than low_freq_factor times, and
    between them interpolates by how often they fit (Grattafiori et al., 2024, and the code published with Llama 3.1).
    """
    stretched = frequencies / config.rope_factor
    match config.rope_scaling:
        case "linear":
            return stretched
        case "llama3":
            low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
            times = config.rope_original_context * frequencies / (2 * np.pi)
            kept = np.clip((times - low) / (high - low), 0.0, 1.0)
            return kept * frequencies + (1 - kept) * stretched
    return frequencies


def rotations(
    frequencies: Float64[np.ndarray, " P"], positions: Int[np.ndarray, "*T"]
) -> tuple[Float64[np.ndarray, "*T P"], Float64[np.ndarray, "*T P"]]:
    """Return cosines and sines of position * frequency.

    They are float64; the caller casts them. Angles computed in float32 would be off by 4e-6 at position 1,024.
    """
    angles = positions[..., None].astype(np.float64) * frequencies
    return np.cos(angles), np.sin(angles)


def rope_tables(
    theta: float, d_head: int, positions: Int[np.ndarray, "*T"]
) -> tuple[Float64[np.ndarray, "*T P"], Float64[np.ndarray, "*T P"]]:
    """Return RoPE's cosines and sines without scaling."""
    return rotations(rope_frequencies(theta, d_head), positions)


def sinusoidal_table(d_model: int, positions: Int[np.ndarray, "*T"]) -> Float64[np.ndarray, "*T D"]:
    """Return sin and cos of position / 10,000^(2i / d_model) at 2i and 2i + 1 (Vaswani et al., 2017, section 3.5).

    The angles are those of RoPE's tables. The table is float64; the caller casts it.
    """
    cos, sin = rope_tables(10_000.0, d_model, positions)
    return np.stack((sin, cos), axis=-1).reshape(*positions.shape, -1)[..., :d_model]


def position_tables(
    config: ModelConfig,
    positions: Int[np.ndarray, "*T"],
    length: int,
    dtype: DTypeLike = np.float64,
    layer_type: LayerType = "full",
) -> tuple[np.ndarray, ...]:
    """Return what a model needs of these positions: cosines and sines, sinusoids, rows of an embedding, or nothing.

    Args:
        length: Number of learned positions.
        dtype: Type of the floating-point tables, which are computed in float64.
        layer_type: The layers that the tables are for. Sliding layers may have a RoPE of their own.

    Raises:
        InputError: a position is beyond the `length` learned ones.
    """
    match config.position:
        case "rope":
            assert config.d_head is not None
            if layer_type == "sliding" and config.sliding_rope_theta is not None:
                frequencies = rope_frequencies(config.sliding_rope_theta, config.d_head)
            else:
                frequencies = scaled_frequencies(config, rope_frequencies(config.rope_theta, config.d_head))
            cos, sin = rotations(frequencies, positions)
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
