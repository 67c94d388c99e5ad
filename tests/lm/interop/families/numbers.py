"""What a model computes of a text: logits, hidden states, and the gradient of the loss with respect to every weight."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

import jax_impl.functional
import jax_impl.model
import torch_impl.functional
from jax_impl.trees import named_leaves, nested
from lm.backend import BackendName
from lm.budgets import Dtype
from lm.config import ModelConfig
from tests.lm.interop.families.float64 import float64
from torch_impl.model import TransformerLM

Weights = dict[str, np.ndarray]


class Numbers(NamedTuple):
    """The arrays are float64, whatever type the model computed them in."""

    logits: np.ndarray
    hidden: list[np.ndarray]
    """The residual stream before the first block, after each block except the last, and what the head reads."""
    gradients: Weights


def theirs(model: Any, ids: np.ndarray) -> Numbers:
    """Return what a model of transformers computes. The gradients carry its own names."""
    inputs, targets = torch.tensor(ids[:, :-1]), torch.tensor(ids[:, 1:])
    with float64() if model.dtype == torch.float64 else contextlib.nullcontext():
        out = model(inputs, output_hidden_states=True, use_cache=False)
    loss = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), targets.flatten())
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, list(named.values()))
    return Numbers(
        _array(out.logits),
        [_array(h) for h in out.hidden_states],
        {name: _array(g) for name, g in zip(named, gradients, strict=True)},
    )


def logits_in_torch(config: ModelConfig, weights: Weights, ids: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Return torch_impl's logits alone."""
    with torch.no_grad():
        return _array(_torch_model(config, weights, dtype)(torch.tensor(ids[:, :-1])))


def logits_in_jax(config: ModelConfig, weights: Weights, ids: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Return jax_impl's logits alone."""
    program = jax.jit(jax_impl.model.transformer_lm, static_argnums=(2, 3))
    return np.asarray(
        program(_jax_params(weights, dtype), jnp.asarray(ids[:, :-1]), config, dtype), np.float64
    )


LOGITS: dict[BackendName, Callable[[ModelConfig, Weights, np.ndarray, Dtype], np.ndarray]] = {
    "torch": logits_in_torch,
    "jax": logits_in_jax,
}


def in_torch(config: ModelConfig, weights: Weights, ids: np.ndarray, dtype: Dtype) -> Numbers:
    """Return what torch_impl computes."""
    model = _torch_model(config, weights, dtype)
    hidden: list[torch.Tensor] = []
    model.layers[0].register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
    for layer in (*model.layers[:-1], model.ln_final):
        layer.register_forward_hook(lambda _, __, out: hidden.append(out))
    logits = model(torch.tensor(ids[:, :-1]))
    torch_impl.functional.cross_entropy(logits, torch.tensor(ids[:, 1:])).backward()
    gradients = {name: _array(p.grad) for name, p in model.named_parameters()}
    return Numbers(_array(logits), [_array(h) for h in hidden], gradients)


def in_jax(config: ModelConfig, weights: Weights, ids: np.ndarray, dtype: Dtype) -> Numbers:
    """Return what jax_impl computes, in one compiled program."""
    params, hidden = _jax_params(weights, dtype), list[Any]()
    head = jax_impl.model.logits

    def record_stream(x: Any, rows: Any) -> Any:
        hidden.append(x)
        return x

    def record_head(params: Any, x: Any, *more: Any) -> Any:
        hidden[-1] = x
        return head(params, x, *more)

    def loss(params: Any) -> Any:
        hidden.clear()
        logits = jax_impl.model.transformer_lm(params, jnp.asarray(ids[:, :-1]), config, dtype)
        return jax_impl.functional.cross_entropy(logits, jnp.asarray(ids[:, 1:])), (logits, [*hidden])

    with mock.patch.multiple(jax_impl.model, constrain=record_stream, logits=record_head):
        program = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (_, (logits, streams)), gradients = program(params)
    return Numbers(
        np.asarray(logits, np.float64),
        [np.asarray(h, np.float64) for h in streams],
        {name: np.asarray(g, np.float64) for name, g in named_leaves(gradients)},
    )


OURS: dict[BackendName, Callable[[ModelConfig, Weights, np.ndarray, Dtype], Numbers]] = {
    "torch": in_torch,
    "jax": in_jax,
}


def _torch_model(config: ModelConfig, weights: Weights, dtype: Dtype) -> TransformerLM:
    param_dtype = torch.float64 if dtype == "float64" else torch.float32
    model = TransformerLM(config, getattr(torch, dtype), dtype=param_dtype)
    model.load_state_dict({name: torch.tensor(w) for name, w in weights.items()})
    return model


def _jax_params(weights: Weights, dtype: Dtype) -> Any:
    param_dtype = "float64" if dtype == "float64" else "float32"
    return nested({name: jnp.asarray(w, param_dtype) for name, w in weights.items()})


def _array(tensor: Any) -> np.ndarray:
    return tensor.detach().double().numpy()
