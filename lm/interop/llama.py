"""Llama in Hugging Face's format: names of its parameters, order of their rows, and config.json.

Llama is this project's decoder with RMSNorm, RoPE and SwiGLU. Two things differ: the names, and the pairs that RoPE
rotates. Llama rotates (p, p + d_head / 2) in each head, and this project rotates (2p, 2p + 1), so the rows of the query
and key projections change places.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lm.config import ModelConfig, from_dict
from lm.files import read_object
from lm.run.leaves import Leaves
from tokenizer.errors import InputError

# The settings of ours that make a Llama.
_LLAMA = {
    "architecture": "decoder",
    "norm": "rmsnorm",
    "norm_position": "pre",
    "block": "sequential",
    "position": "rope",
    "ffn": "swiglu",
    "qk_norm": False,
}
_MODULES = {
    "token_embeddings": "model.embed_tokens",
    "ln1": "input_layernorm",
    "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.output_proj": "self_attn.o_proj",
    "ln2": "post_attention_layernorm",
    "ffn.w1": "mlp.gate_proj",
    "ffn.w2": "mlp.down_proj",
    "ffn.w3": "mlp.up_proj",
    "ln_final": "model.norm",
    "lm_head": "lm_head",
}
_SIZES = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "context_length",
    "hidden_size": "d_model",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "d_ff",
}
# The values that our models support, for settings of config.json in which they have no choice.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "model_type": ("llama",),
    "architectures": (["LlamaForCausalLM"], None),
    "hidden_act": ("silu", "swish"),
    "sliding_window": (None,),
    "partial_rotary_factor": (1, None),
    "quantization_config": (None,),
}


def llama_name(name: str) -> str:
    """Return Llama's name of a parameter.

    >>> llama_name("layers.0.attn.output_proj.weight")
    'model.layers.0.self_attn.o_proj.weight'
    """
    parts = re.fullmatch(r"(layers\.\d+\.)?(.+)\.(weight|bias)", name)
    assert parts is not None
    layer, module, leaf = parts.groups()
    return f"{f'model.{layer}' if layer else ''}{_MODULES[module]}.{leaf}"


def is_rotated(name: str) -> bool:
    """Whether RoPE rotates what a parameter projects to."""
    return ".q_proj." in name or ".k_proj." in name


def split_halves(rows: np.ndarray, d_head: int) -> np.ndarray:
    """Reorder the rows of each head from our order to Llama's: rows 0, 2, 4, ..., then 1, 3, 5, ..."""
    return rows.reshape(-1, d_head // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def interleave_halves(rows: np.ndarray, d_head: int) -> np.ndarray:
    """Reorder the rows of each head from Llama's order to ours: the inverse of `split_halves`."""
    return rows.reshape(-1, 2, d_head // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def check_finite(weights: Leaves, where: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the weights.

    Raises:
        InputError: one of them holds NaN or infinity.
    """
    for name, leaf in weights:
        array = leaf[...]
        if not np.isfinite(array).all():
            raise InputError(
                f"{where}: '{name}' holds numbers that are not finite; take an earlier checkpoint, or fetch it again"
            )
        yield name, array


def check_expressible(model: ModelConfig, where: Path) -> None:
    """Refuse a model that is not a Llama, and name each setting that differs."""
    different = [
        f"{name} {getattr(model, name)}" for name, value in _LLAMA.items() if getattr(model, name) != value
    ]
    if different:
        fitting = ", ".join(f"{name} {value}" for name, value in _LLAMA.items())
        raise InputError(
            f"{where}: Llama's format cannot express {', '.join(different)}; export a model of {fitting}"
        )


def llama_config(model: ModelConfig, dtype: str) -> dict[str, Any]:
    """Return the config.json of a model, whose weights have type `dtype`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **{theirs: getattr(model, ours) for theirs, ours in _SIZES.items()},
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.d_head,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "rope_theta": model.rope_theta,  # for transformers 4
        "attention_bias": model.bias,
        "mlp_bias": model.bias,
        "attention_dropout": model.attention_dropout,
        "tie_word_embeddings": model.tie_embeddings,
        "dtype": dtype,
    }


def read_model_config(path: Path, context_length: int | None) -> ModelConfig:
    """Return our settings of the model that a Llama's config.json describes.

    Args:
        context_length: A shorter context than the file's, or None.

    Raises:
        InputError: the file is malformed, or needs something that our models do not support. One line names all of it.
    """
    theirs = read_saved_json(path)
    for name in _SIZES:
        if type(theirs.get(name)) is not int or theirs[name] < 1:
            raise InputError(f"{path}: {name} is {theirs.get(name)!r}: expected a whole number above 0")
    # transformers 4 writes rope_scaling, and rope_theta beside it.
    rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise InputError(f"{path}: rope_parameters is {rope!r}: expected a table of settings")
    biases = {name: theirs.get(name, False) for name in ("attention_bias", "mlp_bias")}
    unsupported = _unsupported(theirs, rope)
    if len(set(map(str, biases.values()))) > 1:
        unsupported.append(" and ".join(f"{name} {value!r}" for name, value in biases.items()))
    if unsupported:
        raise InputError(f"{path}: cannot be imported as a Llama, because it has {'; '.join(unsupported)}")
    values = {ours: theirs[name] for name, ours in _SIZES.items()}
    if context_length is not None:
        if not 0 < context_length <= values["context_length"]:
            raise InputError(
                f"context_length is {context_length}: give 1 to {path}'s max_position_embeddings "
                f"{values['context_length']}"
            )
        values["context_length"] = context_length
    values |= {
        "num_kv_heads": theirs.get("num_key_value_heads"),
        "norm_eps": theirs.get("rms_norm_eps", 1e-6),
        "rope_theta": rope.get("rope_theta", theirs.get("rope_theta", 10_000.0)),
        "bias": biases["mlp_bias"],
        "tie_embeddings": theirs.get("tie_word_embeddings", False),
        "attention_dropout": theirs.get("attention_dropout") or 0.0,
    }
    config: ModelConfig = from_dict(ModelConfig, values, str(path))
    return config


def _unsupported(theirs: dict[str, Any], rope: dict[str, Any]) -> list[str]:
    """Return the settings of a config.json, and of its RoPE, that our models do not support."""
    found = [
        f"{name} {theirs[name]!r}"
        for name, supported in _SUPPORTED.items()
        if theirs.get(name, supported[0]) not in supported
    ]
    if theirs.get("model_type") is None:
        found.append("no model_type")
    if theirs.get("head_dim") not in (None, theirs["hidden_size"] / theirs["num_attention_heads"]):
        found.append(f"head_dim {theirs['head_dim']!r}, not hidden_size / num_attention_heads")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default" or any(isinstance(value, dict) for value in rope.values()):
        found.append(f"rope_scaling {rope!r}")
    if rope.get("partial_rotary_factor") not in (None, 1):
        found.append(f"partial_rotary_factor {rope['partial_rotary_factor']!r}")
    return found


def read_saved_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a folder that transformers saved."""
    return read_object(path, "give a folder that transformers saved, or save or fetch it again")
