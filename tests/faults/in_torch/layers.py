"""Faults in torch_impl/layers.py."""

from typing import Any

import torch
from torch import Tensor

from tests.faults.fault import EMBEDDING, LAYERNORM, LINEAR, NORM, fault
from tests.faults.in_torch.modules import with_parts
from torch_impl.dtypes import at_least_float32


@fault("linear reads its weight transposed", "torch_impl.layers.Linear.forward", LINEAR)
def _(forward: Any) -> Any:
    def broken(self: Any, x: Tensor) -> Tensor:
        return forward(with_parts(self, weight=self.weight.T.reshape(self.weight.shape)), x)

    return broken


@fault("embedding is off by one row", "torch_impl.layers.Embedding.forward", EMBEDDING)
def _(forward: Any) -> Any:
    return lambda self, token_ids: forward(self, token_ids - 1)


@fault("epsilon outside the root", "torch_impl.layers.RMSNorm.forward", NORM)
def _(forward: Any) -> Any:
    def broken(self: Any, x: Tensor) -> Tensor:
        x32 = at_least_float32(x)
        rms = x32.square().mean(-1, keepdim=True).sqrt()
        return (x32 / (rms + self.eps) * self.weight).to(x.dtype)

    return broken


@fault("the norm's gradient takes the root for a constant", "torch_impl.layers.RMSNorm.forward", NORM)
def _(forward: Any) -> Any:
    def broken(self: Any, x: Tensor) -> Tensor:
        x32 = at_least_float32(x)
        inverse_rms = torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        return (x32 * inverse_rms.detach() * self.weight).to(x.dtype)

    return broken


@fault("LayerNorm forgets the mean", "torch_impl.layers.LayerNorm.forward", LAYERNORM)
def _(forward: Any) -> Any:
    def broken(self: Any, x: Tensor) -> Tensor:
        x32 = at_least_float32(x)
        inverse_std = torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        return (x32 * inverse_std * self.weight + self.bias).to(x.dtype)

    return broken
