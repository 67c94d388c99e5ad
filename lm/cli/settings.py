"""What several commands share."""

import copy
from typing import Literal, TypeAlias

from lm.config import ModelConfig

END_OF_TEXT = "<|endoftext|>"
Backend: TypeAlias = Literal["jax", "torch"]


def leave_derived_open(model: ModelConfig) -> ModelConfig:
    """The model as a flag's default: sizes that follow from others are left out, for a flag that changes those."""
    model = copy.copy(model)
    for name, value in model.derived().items():
        if getattr(model, name) == value:
            object.__setattr__(model, name, None)
    return model
