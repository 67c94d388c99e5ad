"""What several commands share."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from lm.config import ModelConfig
from tokenizer.errors import InputError
from tokenizer.files import read_bytes, refuse_utf16

Backend: TypeAlias = Literal["jax", "torch"]


@dataclass(frozen=True, kw_only=True)
class Compiles:
    """A command that computes in a backend."""

    compile_cache: bool = True
    """Keep what JAX compiles in the user's cache directory, so that the same command later starts at once."""


def leave_derived_open(model: ModelConfig) -> ModelConfig:
    """The model as a flag's default: a size that was not given is left out, so that it follows the other flags."""
    model = copy.copy(model)
    for name in model.filled_in:
        object.__setattr__(model, name, None)
    return model


def read_text(name: Path | str) -> str:
    """The text of a file or a pipe, or of standard input if it is named -; without a byte-order mark.

    Raises:
        InputError: it is not UTF-8.
        OSError: it cannot be read.
    """
    try:
        data = read_bytes(name)
        refuse_utf16(data, name)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 at byte {error.start}; give a text file") from None
