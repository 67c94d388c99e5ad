"""What torch_impl computes; the twin of `in_jax`."""

from typing import Any

import numpy as np
import torch

from lm.backend import Backend
from lm.config import TrainConfig
from parity.check.hf.answer import KEPT, Numbers


def compute_numbers(backend: Backend, state: Any, config: TrainConfig, ids: np.ndarray) -> list[Numbers]:
    """Return the logits and hidden states of some texts, in eager mode. Hooks of torch's modules record the states."""
    states: list[np.ndarray] = []

    def record(x: torch.Tensor) -> None:
        states.append(x.float().numpy())

    model = state.model
    hooks = [
        model.layers[0].register_forward_pre_hook(lambda module, args: record(args[0])),
        *(layer.register_forward_hook(lambda module, args, x: record(x)) for layer in model.layers[:-1]),
        model.ln_final.register_forward_hook(lambda module, args, x: record(x)),
    ]
    logits = backend.make_logits(config)(state, ids)
    for hook in hooks:
        hook.remove()
    return [Numbers("torch_impl, eager", config.compute_dtype, logits[:, -KEPT:], states)]
