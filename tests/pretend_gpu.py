"""A device that says it is a GPU and computes on the CPU: what torch does only on a GPU can be run and counted.

Its tensors report the device meta, since a CPU's build of torch has no device cuda. Our code asks only whether a tensor
is on a CPU.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

aten: Any = torch.ops.aten


class OnGpu(Tensor):
    """A tensor of the pretended GPU. Its numbers lie in `held`."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnGpu":
        tensor: OnGpu = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            held.stride(),
            held.storage_offset(),
            dtype=held.dtype,
            device=torch.device("meta"),
        )
        tensor.held = held
        return tensor

    @property  # type: ignore[override]
    def data(self) -> "OnGpu":
        return OnGpu(self.held)

    @data.setter
    def data(self, other: "OnGpu") -> None:
        self.held = other.held

    def tolist(self) -> Any:
        """Copy the numbers to the host; torch's own function refuses subclasses."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("used outside of pretend_gpu()")


class Gpu(TorchDispatchMode):
    """Run each operation on the CPU. Count what makes the host wait, and refuse to mix devices."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reads: list[str] = []
        """Operations that read the device's memory."""
        self.waits: list[str] = []
        """Copies to the device for which the host waits."""
        self.types: set[torch.dtype] = set()
        """Types of the device's arrays."""
        self.factors: set[torch.dtype] = set()
        """Types of the factors of matrix products."""
        self.operations = 0
        """Operations that compute on the device: a view computes nothing."""
        self._pinned: list[Tensor] = []

    def __torch_dispatch__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if f is aten.is_pinned.default:
            return self._is_pinned(args[0])
        if f is aten._pin_memory.default:
            self._pinned.append(args[0].clone())
            return self._pinned[-1]
        given = _tensors((*args, *kwargs.values()))
        onto_gpu = _is_onto_gpu(f, given, kwargs)
        self._count(f, given, kwargs, onto_gpu)
        self.operations += onto_gpu and not f.is_view
        held_args = _changed(args, OnGpu, lambda x: x.held)
        held_kwargs = {name: _changed(x, OnGpu, lambda x: x.held) for name, x in kwargs.items()}
        if kwargs.get("device") is not None:
            held_kwargs["device"] = torch.device("cpu")
        if (
            f is aten._conj.default and onto_gpu
        ):  # inside a mode, nothing would resolve the mark of a conjugate
            real, imaginary = torch.view_as_real(held_args[0]).unbind(-1)
            return OnGpu(torch.complex(real, -imaginary))
        if f in PRODUCTS and onto_gpu:
            self.factors.add(given[-1].dtype)
        if f is aten.bmm.dtype:  # only a GPU has it
            result = torch.bmm(*(x.to(held_args[2]) for x in held_args[:2]))
        else:
            result = f(*held_args, **held_kwargs)
        if f is aten.copy_.default:
            return args[0]
        if not onto_gpu:
            return result
        self.types |= {x.dtype for x in _tensors(result)}
        wrapped = _changed(result, Tensor, OnGpu)
        if f in COPIES or not given:
            return wrapped
        return return_and_correct_aliasing(f, args, kwargs, wrapped)

    def _is_pinned(self, x: Tensor) -> bool:
        return any(x is y for y in self._pinned)

    def _count(self, f: Any, given: list[Tensor], kwargs: dict[str, Any], onto_gpu: bool) -> None:
        """Count a read or a copy for which the host waits. Check that other operations stay on one device."""
        if f in COPIES:
            from_gpu = isinstance(given[-1], OnGpu)
            if from_gpu and not onto_gpu:
                self.reads.append(str(f))
            if onto_gpu and not from_gpu and not (self._is_pinned(given[-1]) and kwargs.get("non_blocking")):
                self.waits.append(str(f))
        elif any(isinstance(x, OnGpu) for x in given):
            if f is aten._local_scalar_dense.default:
                self.reads.append(str(f))
            # A number may come from the host.
            assert all(isinstance(x, OnGpu) or not x.ndim for x in given), (
                f"{f}: the CPU's tensor meets the GPU's"
            )


PRODUCTS = (
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.bmm.dtype,
    aten.baddbmm.default,
    aten.baddbmm_.default,
)
COPIES = (aten._to_copy.default, aten.copy_.default)


def _is_onto_gpu(f: Any, given: list[Tensor], kwargs: dict[str, Any]) -> bool:
    """Return whether the result is on the GPU: by the argument `device`, the target of a copy, or what is given."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"]).type != "cpu"
    return any(isinstance(x, OnGpu) for x in (given[:1] if f is aten.copy_.default else given))


def _changed(x: Any, kind: type[Tensor], change: Callable[[Any], Tensor]) -> Any:
    """Return a value with its tensors of this kind changed. torch's own `tree_map_only` took most of a step's time."""
    if isinstance(x, list | tuple):
        return (list if isinstance(x, list) else tuple)(_changed(y, kind, change) for y in x)
    return change(x) if isinstance(x, kind) else x


def _tensors(x: Any) -> list[Tensor]:
    """Return the tensors in a value."""
    if isinstance(x, list | tuple):
        return [tensor for y in x for tensor in _tensors(y)]
    return [x] if isinstance(x, Tensor) else []


@contextlib.contextmanager
def pretend_gpu() -> Iterator[Gpu]:
    """Have the device cuda inside this context. Inference mode, which has no room for subclasses, is no_grad there."""

    def no_grad(mode: bool = True) -> Any:
        return torch.no_grad() if mode else contextlib.nullcontext()

    lazy_init = mock.patch("torch.cuda._lazy_init")
    with lazy_init, mock.patch("torch.inference_mode", no_grad), Gpu() as gpu:
        yield gpu
