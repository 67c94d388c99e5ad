"""Faults in torch_impl/functional.py."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tests.faults.fault import CLIP, DROPOUT, GELU, LOSS, SILU, SOFTCAP, SOFTMAX, SWIGLU, fault
from torch_impl.dtypes import at_least_float32


@fault("softmax sums over the wrong axis", "torch_impl.functional.softmax", SOFTMAX)
def _(softmax: Any) -> Any:
    def broken(x: Tensor, dim: int) -> Tensor:
        x32 = at_least_float32(x)
        exp = torch.exp(x32 - x32.amax(dim, keepdim=True).detach())
        return (exp / exp.sum(0, keepdim=True)).to(x.dtype)

    return broken


@fault("softmax in the type it is given", "torch_impl.functional.softmax", SOFTMAX)
def _(softmax: Any) -> Any:
    def broken(x: Tensor, dim: int) -> Tensor:
        exp = torch.exp(x - x.amax(dim, keepdim=True).detach())
        return exp / exp.sum(dim, keepdim=True)

    return broken


@fault("silu with GELU's 1.702", "torch_impl.functional.silu", SILU)
def _(silu: Any) -> Any:
    def broken(x: Tensor) -> Tensor:
        x32 = at_least_float32(x)
        return (x32 * torch.sigmoid(1.702 * x32)).to(x.dtype)

    return broken


@fault("silu rounds its sigmoid to bfloat16", "torch_impl.functional.silu", SILU)
def _(silu: Any) -> Any:
    return lambda x: (at_least_float32(x) * torch.sigmoid(x)).to(x.dtype)


@fault("GELU by tanh", "torch_impl.functional.gelu", GELU)
def _(gelu: Any) -> Any:
    def broken(x: Tensor) -> Tensor:
        x32 = at_least_float32(x)
        return (0.5 * x32 * (1 + torch.tanh(0.7978845608 * (x32 + 0.044715 * x32**3)))).to(x.dtype)

    return broken


@fault("gate and value change places", "torch_impl.functional.silu_gate", SWIGLU)
def _(silu_gate: Any) -> Any:
    return lambda a, b: silu_gate(b, a)


@fault("a shift brings the sign along", "torch_impl.functional.mix", DROPOUT)
def _(mix: Any) -> Any:
    def broken(x: Tensor) -> Tensor:
        x = (x ^ (x >> 16 & 0xFFFF)) * 0x7FEB352D
        x = (x ^ x >> 15) * (0x846CA68B - 2**32)
        return x ^ (x >> 16 & 0xFFFF)

    return broken


@fault("what is left is not scaled", "torch_impl.functional.dropout", DROPOUT)
def _(dropout: Any) -> Any:
    return lambda x, rate, key, place: torch.where(dropout(x, rate, key, place) == 0.0, 0.0, x)


@fault("cross-entropy of the next id", "torch_impl.functional.token_cross_entropy", LOSS)
def _(token_cross_entropy: Any) -> Any:
    return lambda logits, targets, *z_loss: token_cross_entropy(
        logits, (targets.long() + 1) % logits.shape[-1], *z_loss
    )


@fault("torch's z-loss is not squared", "torch_impl.functional.token_cross_entropy", LOSS)
def _(token_cross_entropy: Any) -> Any:
    def broken(logits: Tensor, targets: Tensor, z_loss: float = 0.0) -> Tensor:
        return token_cross_entropy(logits, targets) + z_loss * at_least_float32(logits).logsumexp(-1)

    return broken


@fault("cross-entropy sums instead of averaging", "torch_impl.functional.cross_entropy", LOSS)
def _(cross_entropy: Any) -> Any:
    return lambda logits, targets: cross_entropy(logits, targets) * targets.numel()


@fault("the norm adds norms, not squares", "torch_impl.functional.global_norm", CLIP)
def _(global_norm: Any) -> Any:
    return lambda tensors: sum((global_norm([t]) for t in tensors), torch.zeros(()))


@fault("clipping scales small gradients up", "torch_impl.functional.clip_gradients", CLIP)
def _(clip_gradients: Any) -> Any:
    @torch.no_grad()
    def broken(parameters: Iterable[Tensor], max_norm: float, norm: Tensor | None = None) -> Tensor:
        parameters = list(parameters)
        norm = clip_gradients(parameters, max_norm, norm)
        for gradient in (p.grad for p in parameters if p.grad is not None and norm <= max_norm):
            gradient.mul_((max_norm / (norm + 1e-6)).to(gradient.dtype))
        return norm

    return broken


@fault("relu2 lets the square of negative numbers through", "torch_impl.functional.relu2", GELU)
def _(relu2: Any) -> Any:
    return lambda x: relu2(x) + relu2(-x)


@fault("the cap forgets to scale back", "torch_impl.functional.softcap", SOFTCAP)
def _(softcap: Any) -> Any:
    return lambda x, cap: softcap(x, cap) / cap


@fault("GELU by tanh has 0.44715 in it", "torch_impl.functional.gelu_tanh", GELU)
def _(gelu_tanh: Any) -> Any:
    def broken(x: Tensor) -> Tensor:
        x32 = at_least_float32(x)
        return (x32 * torch.sigmoid(2 * 0.7978845608028654 * (x32 + 0.44715 * x32**3))).to(x.dtype)

    return broken
