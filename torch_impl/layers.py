"""The layers with weights, except attention."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from torch_impl import fast
from torch_impl.dtypes import Device, Dtype, at_least_float32
from torch_impl.functional import gelu_gate, project, silu_gate


class Linear(nn.Module):
    """x W^T, plus a bias if the layer has one; the weight is (d_out, d_in)."""

    def __init__(
        self, d_in: int, d_out: int, device: Device = None, dtype: Dtype = None, bias: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_out, d_in, device=device, dtype=dtype))
        std = (2.0 / (d_in + d_out)) ** 0.5
        nn.init.trunc_normal_(self.weight, std=std, a=-3 * std, b=3 * std)
        self.bias = nn.Parameter(torch.zeros(d_out, device=device, dtype=dtype)) if bias else None

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        y = project(x, self.weight)
        return y if self.bias is None else y + self.bias.to(x.dtype)


class Embedding(nn.Module):
    """One row of the weight (vocab_size, d_model) for each token id.

    Ids must lie in 0 .. vocab_size - 1; the training step and generation check ids on the host.
    """

    def __init__(self, vocab_size: int, d_model: int, device: Device = None, dtype: Dtype = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model, device=device, dtype=dtype))
        nn.init.trunc_normal_(self.weight, std=1.0, a=-3.0, b=3.0)

    def forward(self, token_ids: Int[Tensor, "..."]) -> Float[Tensor, "... D"]:
        return self.weight[token_ids]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * gain (Zhang and Sennrich, 2019, eq. 4), computed in at least float32.

    The gain is offset + weight. At first it is 1.
    """

    def __init__(
        self,
        d_model: int,
        eps: float = 1e-5,
        device: Device = None,
        dtype: Dtype = None,
        offset: float = 0.0,
    ) -> None:
        super().__init__()
        self.eps, self.offset = eps, offset
        self.weight = nn.Parameter(torch.full((d_model,), 1.0 - offset, device=device, dtype=dtype))

    @fast.path(fast.rmsnorm)
    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        x32 = at_least_float32(x)
        inverse_rms = torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        gain = self.offset + at_least_float32(self.weight)
        return (x32 * inverse_rms * gain).to(x.dtype)


class LayerNorm(nn.Module):
    """(x - mean(x)) / sqrt(var(x) + eps) * gain + bias (Ba et al., 2016, eq. 4), computed in at least float32.

    The gain is offset + weight. At first it is 1.
    """

    def __init__(
        self,
        d_model: int,
        eps: float = 1e-5,
        device: Device = None,
        dtype: Dtype = None,
        offset: float = 0.0,
    ) -> None:
        super().__init__()
        self.eps, self.offset = eps, offset
        self.weight = nn.Parameter(torch.full((d_model,), 1.0 - offset, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(d_model, device=device, dtype=dtype))

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        x32 = at_least_float32(x)
        centred = x32 - x32.mean(-1, keepdim=True)
        inverse_std = torch.rsqrt(centred.square().mean(-1, keepdim=True) + self.eps)
        gain = self.offset + at_least_float32(self.weight)
        return (centred * inverse_std * gain + self.bias).to(x.dtype)


class Identity(nn.Module):
    """x itself, in place of a norm that the model does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class GatedFeedForward(nn.Module):
    """The three matrices of a feed-forward layer with a gate; a subclass has the formula (Shazeer, 2020, eq. 6)."""

    def __init__(
        self, d_model: int, d_ff: int, device: Device = None, dtype: Dtype = None, bias: bool = False
    ) -> None:
        super().__init__()
        self.w1 = Linear(d_model, d_ff, device, dtype, bias)
        self.w2 = Linear(d_ff, d_model, device, dtype, bias)
        self.w3 = Linear(d_model, d_ff, device, dtype, bias)


class SwiGLU(GatedFeedForward):
    """w2(silu(w1 x) * w3 x)."""

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return self.w2(silu_gate(self.w1(x), self.w3(x)))


class GeGLU(GatedFeedForward):
    """w2(gelu_tanh(w1 x) * w3 x)."""

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return self.w2(gelu_gate(self.w1(x), self.w3(x)))


class FeedForward(nn.Module):
    """w2(activation(w1 x)) (Vaswani et al., 2017, eq. 2)."""

    def __init__(
        self,
        activation: Callable[[Tensor], Tensor],
        d_model: int,
        d_ff: int,
        device: Device = None,
        dtype: Dtype = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.w1 = Linear(d_model, d_ff, device, dtype, bias)
        self.w2 = Linear(d_ff, d_model, device, dtype, bias)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return self.w2(self.activation(self.w1(x)))
