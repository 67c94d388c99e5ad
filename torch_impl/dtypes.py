"""Types of numbers: promotion of precision, and names of types."""

from typing import Any

import torch
from torch import Tensor

Device = torch.device | str | None
"""The device of a layer's weights; None is torch's default."""
Dtype = torch.dtype | None
"""The type of a layer's weights; None is torch's default."""


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32, or `x` itself if its type is wider: norms, softmax and loss never compute in less."""
    return x.float() if x.dtype.itemsize < 4 else x


def dtype_named(dtype: str) -> torch.dtype:
    """Return the type with this name, such as float32."""
    found: Any = getattr(torch, dtype)
    return found
