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
    """The model as a flag's default: sizes that follow from others are left out, for a flag that changes those."""
    model = copy.copy(model)
    for name, value in model.derived().items():
        if getattr(model, name) == value:
            object.__setattr__(model, name, None)
    return model


def read_text(name: Path | str) -> str:
    """The text of a file, or of standard input if it is named -."""
    try:
        data = sys.stdin.buffer.read() if str(name) == "-" else Path(name).read_bytes()
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 at byte {error.start}; give a text file") from None
