"""What jax_impl computes; the twin of `in_torch`."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_impl.dtypes import Params, dtype_named
from jax_impl.model import BLOCKS, Tables, causal_contexts, embed, logits, make_norm
from lm.backend import Backend
from lm.config import TrainConfig
from lm.init import position_tables
from parity.check.hf.answer import KEPT, Numbers


def forward(params: Params, ids_BT: Any, config: TrainConfig) -> tuple[Any, list[Any]]:
    """Return the logits and hidden states: `transformer_lm`, block by block."""
    m, T = config.model, ids_BT.shape[1]
    tables: Tables = {
        layer_type: position_tables(m, np.arange(T), m.context_length, config.param_dtype, layer_type)
        for layer_type in m.used_layer_types
    }
    contexts, block = causal_contexts(m, T, tables), jax.jit(partial(BLOCKS[m.block], config=m))
    states = [embed(params, ids_BT, m, dtype_named(config.compute_dtype), tables)]
    for i, layer in enumerate(params["layers"]):
        x_BTD, _ = block(layer, states[-1], context=contexts[m.layer_type(i)])
        states.append(x_BTD)
    states[-1] = make_norm(m)(params.get("ln_final"), states[-1])
    return logits(params, states[-1][:, -KEPT:], m), states


def compute_numbers(backend: Backend, state: Any, config: TrainConfig, ids: np.ndarray) -> list[Numbers]:
    """Return the logits and hidden states of some texts: in one jitted program, and in float32 in eager mode, too."""
    ids_BT, run = jnp.asarray(ids), partial(forward, config=config)
    found = {"jit": jax.jit(run)(state.params, ids_BT)}
    if config.compute_dtype == "float32":
        with jax.disable_jit():
            found["eager"] = run(state.params, ids_BT)
    return [
        Numbers(
            f"jax_impl, {mode}",
            config.compute_dtype,
            np.asarray(of_logits, np.float32),
            [np.asarray(x, np.float32) for x in states],
        )
        for mode, (of_logits, states) in found.items()
    ]
