"""Faults in torch_impl/fast/blocks.py."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tests.faults.fault import LINEAR, LOSS, NORM, SWIGLU, fault
from torch_impl.dtypes import at_least_float32


@fault("transposes are gated in copies of their parts", "torch_impl.fast.blocks.cache_sized", LINEAR)
def _(cache_sized: Any) -> Any:
    def broken(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        from torch_impl.fast import blocks

        is_small = tensors[0].numel() <= blocks._ELEMENTS
        return cache_sized(*(tensors if is_small else (x.contiguous() for x in tensors)))

    return broken


@fault("the gate's slope is its sigmoid", "torch_impl.fast.blocks.silu_gate", SWIGLU)
def _(silu_gate: Any) -> Any:
    def broken(a: Tensor, b: Tensor) -> Any:
        if silu_gate(a, b) is NotImplemented:
            return NotImplemented
        a32 = at_least_float32(a)
        return (a32 * torch.sigmoid(a32).detach()).to(b.dtype) * b

    return broken


@fault("the norm's own gradient takes the root for a constant", "torch_impl.fast.blocks.rmsnorm", NORM)
def _(rmsnorm: Any) -> Any:
    def broken(norm: Any, x: Tensor) -> Tensor:
        x32 = at_least_float32(x)
        inverse_rms = torch.rsqrt(x32.square().mean(-1, keepdim=True) + norm.eps)
        return (x32 * inverse_rms.detach() * norm.weight).to(x.dtype)

    return broken


@fault("the loss's gradient ignores what flows in", "torch_impl.fast.blocks.TokenCrossEntropy.backward", LOSS)
def _(backward: Any) -> Any:
    def broken(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (d_logits, _), (alone, _) = backward(ctx, g), backward(ctx, torch.ones_like(g))
        # softmax - 1 at the target, softmax elsewhere
        return torch.where(alone < 0, alone, d_logits), None

    return broken


@fault(
    "the gradients of GeGLU's gate and value change places",
    "torch_impl.fast.blocks.GELUGate.backward",
    SWIGLU,
)
def _(backward: Any) -> Any:
    return lambda ctx, g: backward(ctx, g)[::-1]


@fault("the norm's own gradient forgets the 1", "torch_impl.fast.blocks.RMSNorm.backward", NORM)
def _(backward: Any) -> Any:
    def broken(ctx: Any, g: Tensor) -> Any:
        ctx.offset = 0.0
        return backward(ctx, g)

    return broken
