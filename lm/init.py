"""The numbers both backends start from: initial weights by (seed, name), and RoPE's tables."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Float64, Int

from lm.config import ModelConfig
from lm.rng import philox, truncated_normal


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter, in the order of the forward pass; Linear's are (d_out, d_in)."""
    V, D, F = config.vocab_size, config.d_model, config.d_ff
    assert F is not None  # filled in by ModelConfig
    shapes: dict[str, tuple[int, ...]] = {"token_embeddings.weight": (V, D)}
    for i in range(config.num_layers):
        layer = {
            "ln1.weight": (D,),
            "attn.q_proj.weight": (D, D),
            "attn.k_proj.weight": (D, D),
            "attn.v_proj.weight": (D, D),
            "attn.output_proj.weight": (D, D),
            "ln2.weight": (D,),
            "ffn.w1.weight": (F, D),
            "ffn.w2.weight": (D, F),
            "ffn.w3.weight": (F, D),
        }
        shapes |= {f"layers.{i}.{name}": shape for name, shape in layer.items()}
    return shapes | {"ln_final.weight": (D,), "lm_head.weight": (V, D)}


def initial_weight(name: str, shape: tuple[int, ...], seed: int) -> Float64[np.ndarray, "..."]:
    """One initial weight, a pure function of (seed, name, shape).

    Linear: N(0, 2 / (d_in + d_out)) truncated at 3 standard deviations (Glorot and Bengio, 2010, eq. 16).
    Embedding: N(0, 1) truncated at 3. RMSNorm: ones.
    """
    if len(shape) == 1:
        return np.ones(shape)
    std = 1.0 if "embeddings" in name else (2.0 / sum(shape)) ** 0.5
    z = truncated_normal(philox(seed, f"init/{name}"), int(np.prod(shape)), limit=3.0)
    return (std * z).reshape(shape)


def initial_weights(config: ModelConfig, seed: int, dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    """The weights before the first step, by name."""
    for name, shape in parameter_shapes(config).items():
        yield name, initial_weight(name, shape, seed).astype(dtype)


def optimizer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The name and shape of every leaf of AdamW's state: both moments of each weight, and the step count."""
    shapes = parameter_shapes(config)
    return {f"{moment}.{name}": shape for moment in "mv" for name, shape in shapes.items()} | {"step": ()}


def rope_tables(
    theta: float, d_head: int, positions: Int[np.ndarray, "*T"]
) -> tuple[Float[np.ndarray, "*T P"], Float[np.ndarray, "*T P"]]:
    """Cosines and sines of position * theta^(-2p / d_head), p < P = d_head / 2 (Su et al., 2021, eq. 15).

    In float64, to be cast by the caller: angles computed in float32 are off by 4e-6 at position 1,024.
    """
    frequencies = theta ** (-np.arange(0, d_head, 2) / d_head)
    angles = positions[..., None].astype(np.float64) * frequencies
    return np.cos(angles), np.sin(angles)
