"""x W^T, the product of all layers, in the form that is quickest on the CPU at hand.

docs/benchmarks.md has what that gains: for few rows, as in decoding, under "Generation".
"""

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from torch_impl.fused import is_wanted, run

_CPU_INFO = Path("/proc/cpuinfo")
_CPU = _CPU_INFO.read_bytes().decode() if _CPU_INFO.exists() else platform.processor()
_MAKER = next((name for name in ("GenuineIntel", "AuthenticAMD") if name in _CPU), None)
"""Whose processor this is, as MKL asks: it has other kernels for Intel's than for AMD's."""
_CONVOLVES = (
    _MAKER == "AuthenticAMD"
    and torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
)
"""Whether convolutions use registers of 512 bits, of which MKL's kernels for AMD use half."""
_FEW_ROWS = 64
"""Up to so many rows, copying them costs less than copying the weights."""
_VERY_FEW_ROWS = 8
"""Up to so many, Intel's kernels copy nothing."""
_MANY_WEIGHTS = 1 << 18
"""From so many on, they are read by all cores sooner than by one."""
_BLOCK_ROWS = 256
"""Rows of a block of weights, at most."""
_CONVOLVED = 1 << 22
"""From so many products of two numbers on, a convolution is worth its call; with its gradients, from four times as
many."""

Product = Callable[[Float[Tensor, "N I"]], Float[Tensor, "N O"]]
Form = Callable[[Float[Tensor, "O I"]], Product]


def product(x: Float[Tensor, "*B I"], weight: Float[Tensor, "O I"]) -> Float[Tensor, "*B O"]:
    """x W^T; of few rows it may be a transpose in memory."""
    rows, d_in = x.numel() // x.shape[-1], x.shape[-1]
    form = quickest(rows, weight, torch.is_grad_enabled()) if is_wanted() else rows_first
    if form is rows_first:  # not a view of another product, of which fully_shard would warn
        return x @ weight.T
    return form(weight)(x.reshape(rows, d_in)).view(*x.shape[:-1], len(weight))


def quickest(rows: int, weight: Float[Tensor, "O I"], trains: bool = False) -> Form:
    """The form in which so many rows are multiplied in the least time; if it trains, with the gradients."""
    if not weight.is_cpu or _MAKER is None:
        return rows_first
    convolves = _CONVOLVES and weight.dtype == torch.float32 and rows >= _VERY_FEW_ROWS
    if convolves and rows * weight.numel() >= (4 * _CONVOLVED if trains else _CONVOLVED):
        return by_convolution
    if trains or rows > _FEW_ROWS:
        return rows_first
    if _MAKER == "GenuineIntel":
        return weights_first if rows > _VERY_FEW_ROWS else rows_first
    return in_blocks if rows == 1 and weight.numel() >= _MANY_WEIGHTS else weights_first


def rows_first(weight: Float[Tensor, "O I"]) -> Product:
    """As it is written. MKL copies the weights, once for every thread, unless the rows are very few."""
    weight_IO = weight.T
    return lambda x_NI: x_NI @ weight_IO


def weights_first(weight: Float[Tensor, "O I"]) -> Product:
    """(W x^T)^T: MKL copies the rows."""
    return lambda x_NI: (weight @ x_NI.T).T


def in_blocks(weight: Float[Tensor, "O I"]) -> Product:
    """The same of blocks of weights, as a batch: MKL multiplies one matrix by a vector on one core, but many on all."""
    d_out, d_in = weight.shape
    rows = next(size for size in range(_BLOCK_ROWS, 0, -1) if d_out % size == 0)
    blocks = weight.reshape(-1, rows, d_in)

    def multiply(x_NI: Float[Tensor, "N I"]) -> Float[Tensor, "N O"]:
        # Flat first: of a column's strides MKL would take another kernel, of a sixth of the speed.
        x_IN = x_NI.reshape(-1).view(-1, d_in).T
        return torch.bmm(blocks, x_IN.expand(len(blocks), -1, -1)).view(d_out, -1).T

    return multiply


def by_convolution(weight: Float[Tensor, "O I"]) -> Product:
    """The same by oneDNN, whose convolutions torch calls in float32, but not its product."""
    return lambda x_NI: run(Convolution, x_NI, weight)


class Convolution(Function):
    """x W^T, and both products of its gradient: rows of one matrix are an image's pixels, the other's are filters."""

    @staticmethod
    def forward(ctx: Any, x_NI: Float[Tensor, "N I"], weight: Float[Tensor, "O I"]) -> Float[Tensor, "N O"]:
        ctx.save_for_backward(x_NI, weight)
        if len(x_NI) <= _FEW_ROWS:  # oneDNN copies the filters
            return _convolved(weight, x_NI).T
        return _convolved(x_NI, weight)

    @staticmethod
    def backward(ctx: Any, g_NO: Float[Tensor, "N O"]) -> tuple[Tensor | None, Tensor | None]:
        x_NI, weight = ctx.saved_tensors
        of_x, of_weight = ctx.needs_input_grad
        return (
            _convolved(g_NO, weight.T) if of_x else None,
            _convolved(g_NO.T, x_NI.T) if of_weight else None,
        )


def _convolved(pixels_NI: Float[Tensor, "N I"], filters_OI: Float[Tensor, "O I"]) -> Float[Tensor, "N O"]:
    image_1I1N = pixels_NI[None, None].permute(0, 3, 1, 2)
    return torch.conv2d(image_1I1N, filters_OI[:, :, None, None])[0, :, 0].T
