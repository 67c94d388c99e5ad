"""Faults in torch_impl/fast/product.py."""

import functools
from typing import Any

from torch import Tensor

from tests.faults.fault import LINEAR, fault


@fault("few rows are read as if they were columns", "torch_impl.fast.product.in_blocks", LINEAR)
def _(in_blocks: Any) -> Any:
    @functools.wraps(in_blocks)
    def broken(x_NI: Tensor, weight: Tensor) -> Tensor:
        return in_blocks(x_NI.reshape(x_NI.shape[::-1]).T, weight)

    return broken


@fault("a convolution's answer is not turned around", "torch_impl.fast.product.Convolution.forward", LINEAR)
def _(forward: Any) -> Any:
    def broken(ctx: Any, x_NI: Tensor, weight: Tensor) -> Tensor:
        y_NO = forward(ctx, x_NI, weight)
        return y_NO.T.reshape(y_NO.shape) if not y_NO.is_contiguous() else y_NO

    return broken


@fault(
    "a convolution's weight gets half its gradient", "torch_impl.fast.product.Convolution.backward", LINEAR
)
def _(backward: Any) -> Any:
    def broken(ctx: Any, g_NO: Tensor) -> tuple[Tensor | None, Tensor | None]:
        d_x, d_weight = backward(ctx, g_NO)
        return d_x, None if d_weight is None else d_weight / 2

    return broken
