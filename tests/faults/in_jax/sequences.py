"""Faults in jax_impl/sequences.py: the decoder after a prefix."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jax_impl.dtypes import Params
from tests.faults.fault import PREFIXED, fault


@fault("what the hidden cache's padding holds reaches gradients", "jax_impl.sequences.after_prefix", PREFIXED)
def _(original: Any) -> Any:
    """Put the hidden prefix before the tokens as it is, not with zeros at its padding."""

    def broken(params: Params, hidden_BPD: Array, *args: Any) -> Any:
        x_BSD, context = original(params, hidden_BPD, *args)
        return jnp.concatenate((hidden_BPD, x_BSD[:, hidden_BPD.shape[1] :]), axis=1), context

    return broken
