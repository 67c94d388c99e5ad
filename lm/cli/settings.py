"""What several commands share."""

from typing import Literal, TypeAlias

END_OF_TEXT = "<|endoftext|>"
Backend: TypeAlias = Literal["jax", "torch"]
