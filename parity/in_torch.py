"""torch's layers as functions of named arrays, for `lm parity` and tests/parity; the twin of `parity/in_jax.py`."""

from collections.abc import Callable
from typing import Any, get_args
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from lm.budgets import Dtype
from lm.config import AdamWForm
from lm.init import rope_tables
from parity import layers
from parity.case import Arrays, Given, array_dtype
from torch_impl import fast
from torch_impl.attention import (
    Context,
    MultiHeadSelfAttention,
    rope,
    scaled_dot_product_attention,
)
from torch_impl.functional import (
    DropoutKey,
    clip_gradients,
    cross_entropy,
    gelu,
    gelu_tanh,
    global_norm,
    relu,
    relu2,
    silu,
    softcap,
    softmax,
    token_cross_entropy,
)
from torch_impl.layers import Embedding, GeGLU, LayerNorm, Linear, RMSNorm, SwiGLU
from torch_impl.masks import padding_mask
from torch_impl.model import BLOCKS, FEED_FORWARDS, Stack, TransformerLM
from torch_impl.optimizer import SGD, AdamW, Muon
from torch_impl.sequences import EncoderDecoder, PrefixDecoder, TransformerEncoder

Tensors = dict[str, Tensor]


def evaluate(
    layer: str, given: Given, cotangent: np.ndarray | None, dtype: Dtype, mode: str
) -> tuple[Any, Arrays]:
    """Return the layer's output, and the gradients of sum(cotangent * output) with respect to every array.

    Args:
        cotangent: None for no gradients.
        mode: "eager"; "plain", which is eager without the fast forms; or the name of a backend of torch.compile.
    """
    arrays = {
        name: torch.tensor(a, dtype=getattr(torch, array_dtype(name, dtype))).requires_grad_()
        for name, a in given.arrays.items()
    }
    param_dtype = getattr(torch, array_dtype("weight", dtype))
    constants = {name: torch.tensor(c) for name, c in given.constants.items()}
    if "positions" in constants and "d_head" in given.statics:
        tables = rope_tables(given.statics["theta"], given.statics["d_head"], given.constants["positions"])
        constants["cos"], constants["sin"] = (torch.tensor(table, dtype=param_dtype) for table in tables)
    statics = given.statics | {"compute_dtype": getattr(torch, dtype), "param_dtype": param_dtype}
    f = LAYERS[layer](arrays, constants, statics)
    if mode not in ("eager", "plain"):
        # An optimizer is a loop over parameters, which may break the graph; a layer may not.
        f = torch.compile(f, backend=mode, fullgraph=layers.LAYERS[layer].differentiable)
    # Compiled code takes the formulas, and so does "plain". "eager" takes the fast forms at every size.
    with fast.used(mode != "plain"), mock.patch.object(fast.blocks, "_SMALL", 0):
        output = f(arrays)
        gradients = {}
        if output.requires_grad and cotangent is not None:
            leaves = torch.autograd.grad(
                output, list(arrays.values()), torch.tensor(cotangent, dtype=output.dtype)
            )
            gradients = {name: g.double().cpu().numpy() for name, g in zip(arrays, leaves, strict=True)}
    return output.detach().double().cpu().numpy(), gradients


def _module(module: nn.Module, *inputs: Any) -> Callable[[Tensors], Tensor]:
    """Return the module as a function of its weights, and of `x` if there is one."""

    def call(a: Tensors) -> Tensor:
        weights = {name: array for name, array in a.items() if name != "x"}
        return functional_call(module, weights, ((a["x"],) if "x" in a else ()) + inputs)

    return call


def _tables(c: Tensors, over_heads: bool = True) -> Any:
    return tuple(c[name].unsqueeze(-3) if over_heads else c[name] for name in ("cos", "sin"))


def _clip(a: Tensors, max_norm: float) -> Callable[[Tensors], Tensor]:
    parameters = [nn.Parameter(torch.zeros_like(g)) for g in a.values()]

    def call(a: Tensors) -> Tensor:
        for parameter, g in zip(parameters, a.values(), strict=True):
            parameter.grad = g.detach().clone()
        clip_gradients(parameters, max_norm)
        return torch.cat([p.grad.ravel() for p in parameters if p.grad is not None])

    return call


def _steps(a: Tensors, make: Callable[[list[nn.Parameter]], Optimizer]) -> Callable[[Tensors], Tensor]:
    weight = nn.Parameter(a["weight"].detach().clone())
    optimizer = make([weight])

    def call(a: Tensors) -> Tensor:
        for t in range(len(a) - 1):
            weight.grad = a[f"{t}.gradient"].detach()
            optimizer.step()
        return weight.detach()

    return call


def _adamw(a: Tensors, c: Tensors, s: dict[str, Any]) -> Callable[[Tensors], Tensor]:
    return _steps(a, lambda p: AdamW(p, s["lr"], weight_decay=0.1, form=s["form"]))


def _model(s: dict[str, Any], model: Callable[..., nn.Module], *sizes: int) -> nn.Module:
    return model(s["config"], *sizes, s["compute_dtype"], dtype=s["param_dtype"])


def _loss(a: Tensors, c: Tensors, s: dict[str, Any]) -> Callable[[Tensors], Tensor]:
    logits = _module(_model(s, TransformerLM), c["token_ids"])
    return lambda a: cross_entropy(logits(a), c["targets"])


class _EncoderStack(Stack):
    """The blocks of an encoder, without embeddings and head."""

    def forward(self, x_BTD: Tensor, num_tokens_B: Tensor) -> Tensor:
        T = x_BTD.shape[1]
        rope: Any = self.tables(T)["full"] if self.config.position == "rope" else None
        return self.hidden_states(x_BTD, {"full": Context(padding_mask(num_tokens_B, T), rope)})


def _padded(module: nn.Module, c: Tensors, *inputs: Tensor) -> Callable[[Tensors], Tensor]:
    """Return a function that sets a module's outputs to zero at the padding, where they may be anything."""
    f = _module(module, *inputs, c["num_tokens"])

    def call(a: Tensors) -> Tensor:
        out_BTD = f(a)
        is_token_BT = torch.arange(out_BTD.shape[1]) < c["num_tokens"][:, None]
        return torch.where(is_token_BT[..., None], out_BTD, 0)

    return call


LAYERS: dict[str, Callable[[Tensors, Tensors, dict[str, Any]], Callable[[Tensors], Tensor]]] = {
    "softmax": lambda a, c, s: lambda a: softmax(a["x"], s["axis"]),
    "silu": lambda a, c, s: lambda a: silu(a["x"]),
    "gelu": lambda a, c, s: lambda a: gelu(a["x"]),
    "gelu_tanh": lambda a, c, s: lambda a: gelu_tanh(a["x"]),
    "relu": lambda a, c, s: lambda a: relu(a["x"]),
    "relu2": lambda a, c, s: lambda a: relu2(a["x"]),
    "softcap": lambda a, c, s: lambda a: softcap(a["x"], s["cap"]),
    "token_cross_entropy": lambda a, c, s: lambda a: token_cross_entropy(a["logits"], c["targets"]),
    "token_cross_entropy with z-loss": lambda a, c, s: (
        lambda a: token_cross_entropy(a["logits"], c["targets"], s["z_loss"])
    ),
    "cross_entropy": lambda a, c, s: lambda a: cross_entropy(a["logits"], c["targets"]),
    "global_norm": lambda a, c, s: lambda a: global_norm(a.values()),
    "clip_gradients": lambda a, c, s: _clip(a, s["max_norm"]),
    "linear": lambda a, c, s: _module(Linear(*a["weight"].shape[::-1])),
    "linear with bias": lambda a, c, s: _module(Linear(a["x"].shape[-1], len(a["bias"]), bias=True)),
    "embedding": lambda a, c, s: _module(Embedding(*a["weight"].shape), c["token_ids"]),
    "rmsnorm": lambda a, c, s: _module(RMSNorm(a["x"].shape[-1], s["eps"])),
    "layernorm": lambda a, c, s: _module(LayerNorm(a["x"].shape[-1], s["eps"])),
    "rmsnorm of 1 + weight": lambda a, c, s: _module(RMSNorm(a["x"].shape[-1], s["eps"], offset=s["offset"])),
    "layernorm of 1 + weight": lambda a, c, s: _module(
        LayerNorm(a["x"].shape[-1], s["eps"], offset=s["offset"])
    ),
    "swiglu": lambda a, c, s: _module(SwiGLU(*a["w2.weight"].shape)),
    "geglu": lambda a, c, s: _module(GeGLU(*a["w2.weight"].shape)),
    "feed_forward": lambda a, c, s: _module(
        FEED_FORWARDS[s["kind"]](*a["w2.weight"].shape, bias="w1.bias" in a)
    ),
    "rope": lambda a, c, s: lambda a: rope(a["x"], _tables(c, over_heads=False)),
    "scaled_dot_product_attention": lambda a, c, s: (
        lambda a: scaled_dot_product_attention(a["Q"], a["K"], a["V"], c.get("mask"))
    ),
    "scaled_dot_product_attention with a cap": lambda a, c, s: (
        lambda a: scaled_dot_product_attention(a["Q"], a["K"], a["V"], c.get("mask"), cap=s["cap"])
    ),
    "multihead_self_attention": lambda a, c, s: _module(
        MultiHeadSelfAttention(a["x"].shape[-1], s["num_heads"]), Context(c["mask"])
    ),
    "multihead_self_attention with rope": lambda a, c, s: _module(
        MultiHeadSelfAttention(a["x"].shape[-1], s["num_heads"]), Context(c["mask"], _tables(c))
    ),
    "multihead_self_attention of groups": lambda a, c, s: _module(
        MultiHeadSelfAttention(
            a["x"].shape[-1],
            s["num_heads"],
            bias=True,
            num_kv_heads=s["num_kv_heads"],
            qk_norm_eps=s["eps"],
        ),
        Context(c["mask"]),
    ),
    "multihead_self_attention with a d_head": lambda a, c, s: _module(
        MultiHeadSelfAttention(
            a["x"].shape[-1],
            s["num_heads"],
            bias=True,
            num_kv_heads=s["num_kv_heads"],
            d_head=s["d_head"],
            output_bias=False,
            qk_norm_eps=s["eps"],
            qk_norm_over="all_heads",
            norm_offset=1.0,
            query_factor=(s["d_head"] / s["score_dim"]) ** 0.5,
            score_softcap=s["cap"],
        ),
        Context(c["mask"], _tables(c)),
    ),
    "transformer_block": lambda a, c, s: _module(
        BLOCKS[s["config"].block](s["config"]), Context(c["mask"], _tables(c))
    ),
    "transformer_lm": lambda a, c, s: _module(_model(s, TransformerLM), c["token_ids"]),
    "transformer_lm of the family": lambda a, c, s: _module(
        _model(s, TransformerLM), c["token_ids"], DropoutKey(s["seed"], s["step"], c["rows"])
    ),
    "transformer_lm of documents": lambda a, c, s: _module(
        _model(s, TransformerLM), c["token_ids"], DropoutKey(s["seed"], s["step"], c["rows"]), c["starts"]
    ),
    "training loss": _loss,
    "encoder_stack": lambda a, c, s: _padded(_model(s, _EncoderStack, s["config"].context_length), c),
    "transformer_encoder": lambda a, c, s: _padded(_model(s, TransformerEncoder), c, c["token_ids"]),
    "prefix_decoder": lambda a, c, s: _module(_model(s, PrefixDecoder), c["num_tokens"], c["token_ids"]),
    "encoder_decoder": lambda a, c, s: _module(
        _model(s, EncoderDecoder), c["token_ids"], c["num_tokens"], c["prefix"]
    ),
    "adamw": _adamw,
    **{f"one step of adamw, {form}": _adamw for form in get_args(AdamWForm)},
    "muon": lambda a, c, s: _steps(a, lambda p: Muon(p, s["lr"], weight_decay=0.1)),
    "sgd": lambda a, c, s: _steps(a, lambda p: SGD(p, s["lr"])),
}
