"""transformers in float64: its models compute RoPE, norms and softmax in float32, whatever their weights' type."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _Widen(TorchFunctionMode):
    """Replace float32 by float64 in every call of torch."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        out = func(*map(_wide, args), **{name: _wide(value) for name, value in (kwargs or {}).items()})
        assert not isinstance(out, torch.Tensor) or out.dtype != torch.float32, func
        return out


def _wide(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Let torch compute in float64 what the code inside asks for in float32.

    A model that is made inside holds its tables (RoPE's frequencies, the embeddings' factor) in float64, too.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Widen():
            yield
    finally:
        torch.set_default_dtype(default)
