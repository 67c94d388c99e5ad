"""What the hand-written gradients share.

Each gradient is written out. For every operation of the formula, autograd would keep an array and pass over memory
again. A gradient can be computed several times, as under retain_graph, but cannot be differentiated.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


class _NoGradient:
    """Stand in for autograd's context if there will be no backward pass. It keeps nothing."""

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        pass

    def __setattr__(self, name: str, value: Any) -> None:
        pass


_no_gradient = _NoGradient()


def apply(function: Any, *arguments: Any) -> Tensor:
    """Call a torch.autograd.Function, without autograd's bookkeeping if no gradient is wanted."""
    if torch.is_grad_enabled():
        return function.apply(*arguments)
    return function.forward(_no_gradient, *arguments)


def differentiable_once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse create_graph=True. torch's own once_differentiable sometimes treats the gradient as a constant instead."""

    @wraps(backward)
    def checked(ctx: Any, g: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "this gradient is written by hand and cannot be differentiated again (create_graph=True); "
                "set fast = false, or use torch.compile: both compute the formulas, which can"
            )
        return backward(ctx, g)

    return checked


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `x.to(dtype)`. The call to `to` is left out if it would do nothing: it takes a microsecond."""
    return x if x.dtype == dtype else x.to(dtype)
