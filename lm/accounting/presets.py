"""Configs with names, and parsing of sizes in bytes."""

import os
import re
from pathlib import Path
from typing import Any

from lm.config import CONFIGS, ModelConfig, TrainConfig, load_config
from tokenizer.errors import InputError

_GPT2 = {"small": (768, 12, 12), "medium": (1024, 24, 16), "large": (1280, 36, 20), "xl": (1600, 48, 25)}
"""d_model, num_layers and num_heads of GPT-2's sizes (Radford et al., 2019, table 2)."""


def _gpt2(d_model: int, num_layers: int, num_heads: int, d_ff: int | None) -> TrainConfig:
    """Return the course's model in a size of GPT-2."""
    return TrainConfig(ModelConfig(50_257, 1024, d_model, num_layers, num_heads, d_ff))


def _llama(num_layers: int, d_model: int, num_heads: int, d_ff: int) -> TrainConfig:
    """Return a size of LLaMA (Touvron et al., 2023, table 2), trained on 10^12 tokens in batches of 4 million."""
    return TrainConfig(
        ModelConfig(32_000, 2048, d_model, num_layers, num_heads, d_ff, remat="block"),
        steps=238_419,
        batch_size=2048,
        compute_dtype="bfloat16",
    )


def _published(*sizes: int, d_ff: int, **options: Any) -> TrainConfig:
    """Return a model of the Hugging Face hub, in bfloat16 and with blocks recomputed.

    Args:
        sizes: vocab_size, context_length, d_model, num_layers, num_heads.
        options: Settings of the model.
    """
    vocab_size, context_length, d_model, num_layers, num_heads = sizes
    model = ModelConfig(
        vocab_size, context_length, d_model, num_layers, num_heads, d_ff, remat="block", **options
    )
    return TrainConfig(model, compute_dtype="bfloat16")


_LLAMA3: dict[str, Any] = {"num_kv_heads": 8, "rope_theta": 5e5}
_LLAMA32: dict[str, Any] = {"tie_embeddings": True, "rope_scaling": "llama3", "rope_factor": 32.0}
_QWEN: dict[str, Any] = {"tie_embeddings": True, "norm_eps": 1e-6, "rope_theta": 1e6}
_GEMMA: dict[str, Any] = {
    **{"norm_eps": 1e-6, "norm_gain": "one_plus_weight", "norm_position": "sandwich", "ffn": "geglu_tanh"},
    **{"tie_embeddings": True, "scale_embeddings": True, "d_head": 256, "score_dim": 256.0},
}
_GEMMA2: dict[str, Any] = {"score_softcap": 50.0, "logit_softcap": 30.0, "layer_types": ("sliding", "full")}
_GEMMA3: dict[str, Any] = {
    **{"qk_norm": True, "rope_theta": 1e6, "sliding_rope_theta": 1e4},
    "layer_types": ("sliding",) * 5 + ("full",),
}
_OLMO2: dict[str, Any] = {
    **{"norm_eps": 1e-6, "norm_position": "branch", "qk_norm": True, "qk_norm_over": "all_heads"},
    "rope_theta": 5e5,
}

PRESETS = {
    # SwiGLU is 4 d_model wide in the course's questions of 2024 and 2025, and the multiple of 64 nearest 8/3 d_model in
    # those of 2026.
    **{f"gpt2-{size}": _gpt2(*sizes, d_ff=4 * sizes[0]) for size, sizes in _GPT2.items()},
    **{f"gpt2-{size}-2026": _gpt2(*sizes, d_ff=None) for size, sizes in _GPT2.items()},
    "llama-7b": _llama(32, 4096, 32, 11_008),
    "smollm2-135m": _published(
        49_152, 8192, 576, 30, 9, d_ff=1536, num_kv_heads=3, tie_embeddings=True, rope_theta=1e5
    ),
    "llama-3-8b": _published(128_256, 8192, 4096, 32, 32, d_ff=14_336, **_LLAMA3),
    "llama-3.2-1b": _published(128_256, 131_072, 2048, 16, 32, d_ff=8192, **_LLAMA3, **_LLAMA32),
    "mistral-7b": _published(32_000, 32_768, 4096, 32, 32, d_ff=14_336, num_kv_heads=8, sliding_window=4096),
    "qwen2.5-0.5b": _published(
        151_936, 32_768, 896, 24, 14, d_ff=4864, num_kv_heads=2, attention_bias="qkv", **_QWEN
    ),
    "qwen3-0.6b": _published(
        151_936, 40_960, 1024, 28, 16, d_ff=3072, num_kv_heads=8, d_head=128, qk_norm=True, **_QWEN
    ),
    "gemma-2-2b": _published(
        256_000, 8192, 2304, 26, 8, d_ff=9216, num_kv_heads=4, sliding_window=4096, **_GEMMA, **_GEMMA2
    ),
    "gemma-3-1b": _published(
        262_144, 32_768, 1152, 26, 4, d_ff=6912, num_kv_heads=1, sliding_window=512, **_GEMMA, **_GEMMA3
    ),
    "olmo-2-7b": _published(100_352, 4096, 4096, 32, 32, d_ff=11_008, **_OLMO2),
    **{name: load_config(CONFIGS / f"{name}.toml") for name in ("tinystories", "owt")},
}


def find_config(name: str) -> TrainConfig:
    """Return the preset of this name, or the config in the TOML file of this path; - is standard input.

    Raises:
        InputError: the name is neither.
    """
    if name in PRESETS:
        return PRESETS[name]
    if not names_file(name):
        raise InputError(f"'{name}' is not a preset: give {', '.join(PRESETS)} or a TOML file, see configs/")
    return load_config(Path(name))


def names_file(name: str) -> bool:
    """Return whether a name is that of a TOML file, or of something else that may hold TOML, such as a pipe."""
    return name == "-" or name.endswith(".toml") or ("\0" not in name and os.path.exists(name))


def parse_bytes(text: str) -> int:
    """Return a size such as 80GB (of 10^9 bytes), 80GiB (of 2^30 bytes) or 80B in bytes.

    >>> parse_bytes("80GB"), parse_bytes("1.5 KiB"), parse_bytes("12B")
    (80000000000, 1536, 12)

    Raises:
        InputError: the text is not such a size, or the size is 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)(i?)B", text.strip(), re.IGNORECASE)
    size = 0
    if match:
        number, prefix, binary = match.groups()
        unit = (1024 if binary else 1000) ** " KMGT".index((prefix or " ").upper())
        size = int(float(number) * unit)
    if size < 1:
        raise InputError(
            f"'{text}' is not a size of memory: give a number and its unit, such as 80GB or 80GiB"
        )
    return size
