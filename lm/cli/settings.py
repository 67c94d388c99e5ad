"""What several commands share."""

import copy
import sys
from pathlib import Path
from typing import Literal, TypeAlias

from lm.config import ModelConfig
from tokenizer.errors import InputError

END_OF_TEXT = "<|endoftext|>"
Backend: TypeAlias = Literal["jax", "torch"]


def leave_derived_open(model: ModelConfig) -> ModelConfig:
    """The model as a flag's default: a size that was not given is left out, so that it follows the other flags."""
    model = copy.copy(model)
    for name in model.filled_in:
        object.__setattr__(model, name, None)
    return model


def read_text(name: Path | str) -> str:
    """The text of a file, or of standard input if it is named -."""
    try:
        data = sys.stdin.buffer.read() if str(name) == "-" else Path(name).read_bytes()
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 at byte {error.start}; give a text file") from None
