"""Flags and readers that several commands share."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from lm.config import ModelConfig
from tokenizer.errors import InputError
from tokenizer.files.reading import read_bytes, refuse_utf16

Backend: TypeAlias = Literal["jax", "torch"]


@dataclass(frozen=True, kw_only=True)
class Compiles:
    """Base class of the commands that compute in a backend."""

    compile_cache: bool = True
    """Keep what JAX compiles in the user's cache directory, so that the same command starts at once the next time."""


def leave_derived_open(model: ModelConfig) -> ModelConfig:
    """Return the model as the default of flags: sizes that were not given stay open, so that they follow the flags."""
    model = copy.copy(model)
    for name in model.filled_in:
        object.__setattr__(model, name, None)
    return model


def read_text(name: Path | str) -> str:
    """Read the text of a file or a pipe, or of standard input if the name is -, without its byte-order mark.

    Raises:
        InputError: the text is not UTF-8.
        OSError: the file cannot be read.
    """
    try:
        data = read_bytes(name)
        refuse_utf16(data, name)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 at byte {error.start}; give a text file") from None
