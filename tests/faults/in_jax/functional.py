"""Faults in jax_impl/functional.py."""

from typing import Any

import jax
import jax.numpy as jnp

from tests.faults.fault import CLIP, fault


@fault("clipping acts at the limit", "jax_impl.functional.clip_gradients", CLIP)
def _(clip_gradients: Any) -> Any:
    def broken(gradients: Any, max_norm: float) -> Any:
        _, norm = clip_gradients(gradients, max_norm)
        scale = jnp.where(norm >= max_norm, max_norm / (norm + 1e-6), 1.0)
        return jax.tree.map(lambda g: g * scale.astype(g.dtype), gradients), norm

    return broken
