"""Types that several files share, and how they are promoted."""

from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

Params: TypeAlias = dict[str, Any]
"""Weights of a layer: arrays in nested dicts and lists, whose dotted paths are torch_impl's names."""


def at_least_float32(x: Array) -> Array:
    """Cast `x` to float32 unless its type is wider: norms, softmax and loss never compute in less."""
    return x.astype(np.promote_types(x.dtype, np.float32))


def dtype_named(name: str) -> np.dtype:
    """Return the type of a config's name: "float32", "bfloat16" or "float64"."""
    return jnp.dtype(name)
