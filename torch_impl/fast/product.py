"""x W^T, the product of all layers, in the form that is fastest on this machine, as measured when it is first needed.

docs/benchmarks.md says what the choice gains in training and, under "Generation", in decoding, which has few rows.
"""

import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.utils.weak import WeakTensorKeyDictionary

from torch_impl.fast.gradients import apply

_FEW_ROWS = 64
"""With at most this many rows, copying the rows costs less than copying the weights."""
_VERY_FEW_ROWS = 8
"""With fewer rows, a convolution is slower than a product."""
_SOME_WEIGHTS = 1 << 14
"""With fewer weights, every form takes the time of its call."""
_MANY_WEIGHTS = 1 << 18
"""At least this many weights are read sooner by all cores than by one core."""
_BLOCK_ROWS = 256
"""Most rows in a block of weights."""
_CONVOLVED = 1 << 22
"""Fewest multiplications that make a convolution worth its call; with its gradients, it takes four times as many."""
_CLEARLY_FASTER = 1.25
"""The plain form takes at least this many times as long as a form that is chosen, so that noise changes no choice."""
_SAMPLE = 256, 512, 512
"""Rows, inputs and outputs of the product that stands for all products of many rows."""
_CACHED = 3 << 24
"""More bytes than most caches hold: a decode step reads its large weights from memory."""

Form = Callable[[Float[Tensor, "N I"], Float[Tensor, "O I"]], Float[Tensor, "N O"]]

_choices: dict[str, str] = {}
_measured: set[str] = set()


def choices(only_measured: bool = False) -> dict[str, str]:
    """Return the name of the form that was chosen for each kind of product in this process.

    Args:
        only_measured: Leave out the choices that `repeat` has set.
    """
    return {kind: name for kind, name in _choices.items() if kind in _measured or not only_measured}


def repeat(choices: Mapping[str, str]) -> None:
    """Take the forms that another process chose (its `choices`), and do not time these products."""
    _choices.update((kind, name) for kind, name in choices.items() if name in FORMS)
    _chosen.clear()


def keep_plain() -> None:
    """Multiply many rows in the plain form from now on, without timing the other forms."""
    repeat({_kind(None, torch.empty(0)): rows_first.__name__})


def _kind(rows: int | None, weight: Float[Tensor, "O I"]) -> str:
    """Return a name for products of this many rows, or of many rows if `rows` is None."""
    what = "many rows" if rows is None else f"{rows} rows, {tuple(weight.shape)}"
    return f"{what}, {weight.dtype}, {torch.get_num_threads()} threads"


def project(x: Float[Tensor, "*B I"], weight: Float[Tensor, "O I"]) -> Float[Tensor, "*B O"]:
    """Multiply in the chosen form, with weights that are cast once. The product of few rows may be a transpose."""
    weight = _cast(weight, x.dtype)
    d_in = x.shape[-1]
    rows = x.numel() // d_in
    form = chosen(rows, weight, torch.is_grad_enabled())
    if form is rows_first:  # fully_shard would warn about a view of a product
        return x @ weight.T
    return form(x.reshape(rows, d_in), weight).view(*x.shape[:-1], len(weight))


_casts = WeakTensorKeyDictionary()
"""For each weight, the version that was cast, and the result."""


def _cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weight in this type. In inference mode, keep the result until the weight changes.

    Otherwise a decode step would read every weight twice.
    """
    if weight.dtype == dtype:
        return weight
    if not torch.is_inference_mode_enabled():
        if _casts:
            _casts.clear()
        return weight.to(dtype)
    if weight.is_inference():  # it has no version
        return weight.to(dtype)
    version = weight._version, dtype
    known, cast = _casts.get(weight, (None, None))
    if known != version:
        cast = weight.to(dtype)
        _casts[weight] = version, cast
    return cast


_chosen: dict[tuple[Any, ...], Form] = {}
"""Results of `chosen` by number of rows, shape, type, device and number of threads."""


def chosen(rows: int, weight: Float[Tensor, "O I"], trains: bool = False) -> Form:
    """Return the form of a product of this size: the plain form, or a form that was clearly faster when measured."""
    key = rows, trains, weight.shape, weight.dtype, weight.device, torch.get_num_threads()
    form = _chosen.get(key)
    if form is None:
        form = _chosen[key] = _choose(rows, weight, trains)
    return form


def _choose(rows: int, weight: Float[Tensor, "O I"], trains: bool) -> Form:
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
    """Return the forms to choose from, the plain form first."""
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
    """Time all forms in turns and return the best: the plain form, unless another is clearly faster.

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
            start = time.perf_counter()
            for w in weights:
                y = form(x, w)
                if y.requires_grad:
                    torch.autograd.grad(y, (x, w), y.detach())
            return time.perf_counter() - start

        for form in forms:
            seconds(form)  # the first call allocates what later calls reuse
        rounds = [[seconds(form) for form in forms] for _ in range(4)]
    plain, *others = map(min, zip(*rounds, strict=True))
    least = min(others)
    return forms[1 + others.index(least)] if plain >= _CLEARLY_FASTER * least else forms[0]


def rows_first(x_NI: Float[Tensor, "N I"], weight: Float[Tensor, "O I"]) -> Float[Tensor, "N O"]:
    """x W^T as in the formula. MKL copies the weights once for every thread, unless there are very few rows."""
    return x_NI @ weight.T


def weights_first(x_NI: Float[Tensor, "N I"], weight: Float[Tensor, "O I"]) -> Float[Tensor, "N O"]:
    """(W x^T)^T. MKL copies the rows, not the weights."""
    return (weight @ x_NI.T).T


def in_blocks(x_NI: Float[Tensor, "N I"], weight: Float[Tensor, "O I"]) -> Float[Tensor, "N O"]:
    """(W x^T)^T of blocks of weights, as a batch.

    MKL multiplies a matrix by a vector on one core, but a batch of matrices on all cores.
    """
    d_out, d_in = weight.shape
    blocks = weight.reshape(-1, _block_rows(d_out), d_in)
    # Flatten first: for the strides of a column MKL would take another kernel, with a sixth of the speed.
    x_IN = x_NI.reshape(-1).view(-1, d_in).T
    return torch.bmm(blocks, x_IN.expand(len(blocks), -1, -1)).view(d_out, -1).T


@cache
def _block_rows(d_out: int) -> int:
    """Return the rows of a block of weights: the largest allowed number that divides d_out."""
    return next(size for size in range(_BLOCK_ROWS, 0, -1) if d_out % size == 0)


def by_convolution(x_NI: Float[Tensor, "N I"], weight: Float[Tensor, "O I"]) -> Float[Tensor, "N O"]:
    """x W^T as a 1x1 convolution.

    In float32 torch runs convolutions with oneDNN but matrix products with MKL, which is half as fast on AMD Zen 5.
    """
    return apply(Convolution, x_NI, weight)


FORMS: dict[str, Form] = {
    form.__name__: form for form in (rows_first, weights_first, in_blocks, by_convolution)
}


class Convolution(Function):
    """x W^T and both products of its gradient. The rows of one matrix are pixels, those of the other are filters."""

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
