"""x W^T, the product of all layers, in the form that is fastest on this machine, as measured when it is first needed.

docs/benchmarks.md has what that gains: in training, and for few rows, as in decoding, under "Generation".
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from torch_impl.fused import is_wanted, run

_FEW_ROWS = 64
"""Rows up to which copying them costs less than copying the weights."""
_VERY_FEW_ROWS = 8
"""Rows below which a convolution is slower than a product."""
_SOME_WEIGHTS = 1 << 14
"""Weights below which all forms take the time of their calls."""
_MANY_WEIGHTS = 1 << 18
"""Weights from which on all cores read them sooner than one."""
_BLOCK_ROWS = 256
"""Rows of a block of weights, at most."""
_CONVOLVED = 1 << 22
"""Multiplications from which on a convolution is worth its call; with its gradients, it takes four times as many."""
_CLEARLY_FASTER = 1.25
"""The plain form takes at least this many times as long as one that is chosen, so that noise changes no choice."""
_SAMPLE = 256, 512, 512
"""Rows, inputs and outputs of the product whose forms are compared for all that have many rows."""
_CACHED = 3 << 24
"""Bytes that hardly a processor's cache holds: a decode step reads its large weights from memory."""

Product = Callable[[Float[Tensor, "N I"]], Float[Tensor, "N O"]]
Form = Callable[[Float[Tensor, "O I"]], Product]

_choices: dict[str, str] = {}
_measured: set[str] = set()


def choices(only_measured: bool = False) -> dict[str, str]:
    """The name of the form that each kind of product takes in this process, if one was chosen.

    Args:
        only_measured: Leave out those that this process was told.
    """
    return {kind: name for kind, name in _choices.items() if kind in _measured or not only_measured}


def repeat(choices: Mapping[str, str]) -> None:
    """Take the forms that `choices` has told in another process, and measure none of these again."""
    _choices.update((kind, name) for kind, name in choices.items() if name in FORMS)


def _kind(rows: int | None, weight: Float[Tensor, "O I"]) -> str:
    """A name for products of this many rows, or of many."""
    what = "many rows" if rows is None else f"{rows} rows, {tuple(weight.shape)}"
    return f"{what}, {weight.dtype}, {torch.get_num_threads()} threads"


def keep_plain() -> None:
    """Multiply many rows in the plain form from now on, without timing others."""
    _choices[_kind(None, torch.empty(0))] = rows_first.__name__


def product(x: Float[Tensor, "*B I"], weight: Float[Tensor, "O I"]) -> Float[Tensor, "*B O"]:
    """x W^T; of few rows it may be a transpose in memory."""
    rows, d_in = x.numel() // x.shape[-1], x.shape[-1]
    form = chosen(rows, weight, torch.is_grad_enabled()) if is_wanted() else rows_first
    if form is rows_first:  # not a view of another product, of which fully_shard would warn
        return x @ weight.T
    return form(weight)(x.reshape(rows, d_in)).view(*x.shape[:-1], len(weight))


def chosen(rows: int, weight: Float[Tensor, "O I"], trains: bool = False) -> Form:
    """The form of a product of this size: the plain one, or one that was clearly faster when it was measured."""
    few = not trains and rows <= _FEW_ROWS
    if few:
        rows = 1 << (rows - 1).bit_length()
    forms = applicable(rows, weight, trains)
    if len(forms) == 1:
        return rows_first
    kind = _kind(rows if few else None, weight)
    if kind not in _choices:
        _choices[kind] = fastest(forms, rows if few else None, weight).__name__
        _measured.add(kind)
    return FORMS[_choices[kind]]


def applicable(rows: int, weight: Float[Tensor, "O I"], trains: bool) -> list[Form]:
    """The forms to choose from, the plain one first."""
    forms: list[Form] = [rows_first]
    if not weight.is_cpu:
        return forms
    if not trains and rows <= _FEW_ROWS and weight.numel() >= _SOME_WEIGHTS:
        forms.append(weights_first)
        if rows == 1 and weight.numel() >= _MANY_WEIGHTS:
            forms.append(in_blocks)
    convolves = (
        weight.dtype == torch.float32 and rows >= _VERY_FEW_ROWS and torch.backends.mkldnn.is_available()
    )
    if convolves and rows * weight.numel() >= (4 * _CONVOLVED if trains else _CONVOLVED):
        forms.append(by_convolution)
    return forms


def fastest(forms: list[Form], rows: int | None, weight: Float[Tensor, "O I"]) -> Form:
    """Time all forms in turns and return the best: the plain one, unless another is clearly faster.

    Args:
        rows: Rows of the product with this weight. If it is None, the sample product is timed, with its gradients.
    """
    with torch.inference_mode(False), torch.set_grad_enabled(rows is None):
        if rows is None:
            rows, d_in, d_out = _SAMPLE
            weights = [torch.full((d_out, d_in), 0.5, requires_grad=True)]
        elif weight.numel() >= _MANY_WEIGHTS:
            weights = [weight.clone() for _ in range(-(-_CACHED // weight.nbytes))]
        else:
            weights = [weight] * 16
        x = torch.full((rows, weights[0].shape[1]), 0.5, dtype=weight.dtype)
        x.requires_grad_(weights[0].requires_grad)

        def seconds(form: Form) -> float:
            products = [form(weight) for weight in weights]
            start = time.perf_counter()
            for multiply in products:
                y = multiply(x)
                if y.requires_grad:
                    torch.autograd.grad(y, (x, weights[0]), y.detach())
            return time.perf_counter() - start

        for form in forms:
            seconds(form)  # the first call makes what the others reuse
        rounds = [[seconds(form) for form in forms] for _ in range(4)]
    plain, *others = map(min, zip(*rounds, strict=True))
    least = min(others)
    return forms[1 + others.index(least)] if plain >= _CLEARLY_FASTER * least else forms[0]


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


FORMS: dict[str, Form] = {
    form.__name__: form for form in (rows_first, weights_first, in_blocks, by_convolution)
}


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
