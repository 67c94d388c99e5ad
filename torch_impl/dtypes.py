"""Types of numbers: where precision is promoted, and names of types."""

from typing import Any

import torch
from torch import Tensor

Device = torch.device | str | None
"""Where a layer's weights lie; torch's default if None."""
Dtype = torch.dtype | None
"""Type of a layer's weights; torch's default if None."""


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32, or `x` itself if its type is wider: norms, softmax and loss never compute in less."""
    return x.float() if x.dtype.itemsize < 4 else x


def dtype_named(dtype: str) -> torch.dtype:
    """Return the type with this name, such as float32."""
    found: Any = getattr(torch, dtype)
    return found
