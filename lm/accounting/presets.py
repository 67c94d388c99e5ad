"""Configs with names, and parsing of sizes in bytes."""

import os
import re
from pathlib import Path

from lm.config import CONFIGS, ModelConfig, TrainConfig, load_config
from tokenizer.errors import InputError


def _gpt2(num_layers: int, d_model: int, num_heads: int) -> TrainConfig:
    """Return the course's model in a size of GPT-2 (Radford et al., 2019, table 2). Its SwiGLU is 4 d_model wide."""
    return TrainConfig(ModelConfig(50_257, 1024, d_model, num_layers, num_heads, 4 * d_model))


def _llama(num_layers: int, d_model: int, num_heads: int, d_ff: int) -> TrainConfig:
    """Return a size of LLaMA (Touvron et al., 2023, table 2), trained on 10^12 tokens in batches of 4 million."""
    return TrainConfig(
        ModelConfig(32_000, 2048, d_model, num_layers, num_heads, d_ff, remat="block"),
        steps=238_419,
        batch_size=2048,
        compute_dtype="bfloat16",
    )


PRESETS = {
    "gpt2-small": _gpt2(12, 768, 12),
    "gpt2-medium": _gpt2(24, 1024, 16),
    "gpt2-large": _gpt2(36, 1280, 20),
    "gpt2-xl": _gpt2(48, 1600, 25),
    "llama-7b": _llama(32, 4096, 32, 11_008),
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
