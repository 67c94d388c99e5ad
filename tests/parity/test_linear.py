"""Parity and laws of linear."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given

import jax_impl.functional
from lm.budgets import Dtype
from parity.case import Case
from tests.parity.support import (
    DTYPES,
    answers,
    assert_close,
    assert_parity,
    cases,
    examples,
    normal,
    outputs,
)
from torch_impl.fast import blocks, product
from torch_impl.fast.gradients import apply
from torch_impl.fast.product import (
    Form,
    applicable,
    by_convolution,
    choices,
    chosen,
    fastest,
    in_blocks,
    project,
    repeat,
    rows_first,
    weights_first,
)


@pytest.mark.parametrize("dtype", DTYPES)
@examples(10)
@given(case=cases("linear"))
def test_parity(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@examples(5)
@given(case=cases("linear with bias"))
def test_parity_with_bias(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


def test_the_weight_is_d_out_by_d_in() -> None:
    """Row o of the weight computes output o, exactly for small integers, forward and backward."""
    x, weight = np.array([[1.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
    for output, gradients in answers("linear", {"x": x, "weight": weight}).values():
        np.testing.assert_array_equal(output, [[1, 2, 11]])
        np.testing.assert_array_equal(gradients["x"], [[4, 5]])
        np.testing.assert_array_equal(gradients["weight"], [[1, 2], [1, 2], [1, 2]])


def test_is_homogeneous() -> None:
    """Twice the input gives exactly twice the output: there is no bias."""
    x, weight = normal(0, 3, 8), normal(1, 5, 8)
    once, twice = (outputs("linear", {"x": factor * x, "weight": weight}) for factor in (1, 2))
    for name in once:
        np.testing.assert_array_equal(2 * once[name], twice[name])


@pytest.mark.parametrize("rows", [1, 2, 8, 9, 64, 65])
@pytest.mark.parametrize("d_out", [512, 48, 5])
@pytest.mark.parametrize("form", [rows_first, weights_first, in_blocks, by_convolution])
def test_forms_without_gradients(rows: int, d_out: int, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every form of the product agrees, whichever this machine chooses, for contiguous rows and for a transpose."""
    monkeypatch.setattr(product, "chosen", lambda rows, weight, trains: form)
    x, weight = normal(0, rows, 1, 12), normal(1, d_out, 12)
    expected = np.einsum("btd,od->bto", x, weight)
    with torch.no_grad():
        by_torch = project(torch.tensor(x), torch.tensor(weight))
        of_a_transpose = project(torch.tensor(x.T).permute(2, 1, 0), torch.tensor(weight))
    # If the weights come first, the product is a transpose.
    assert by_torch.is_contiguous() == (
        form is rows_first or (form is by_convolution and rows == 65) or rows == 1
    )
    assert_close(by_torch.numpy(), expected, "float64")
    assert_close(of_a_transpose.numpy(), expected, "float64")


@pytest.mark.parametrize("rows", [1, 2, 8, 9, 64, 65])
@pytest.mark.parametrize("d_out", [256, 48, 5])
def test_few_rows_in_jax(rows: int, d_out: int) -> None:
    """With few rows, as in decoding, the weights come first."""
    x, weight = normal(0, rows, 1, 12), normal(1, d_out, 12)
    by_jax = np.asarray(jax_impl.functional.project(jnp.asarray(x), jnp.asarray(weight)))
    assert_close(by_jax, np.einsum("btd,od->bto", x, weight), "float64")


def test_a_form_is_chosen_by_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another form replaces the plain one only if the best of its rounds is clearly faster."""
    now = [0.0]
    monkeypatch.setattr(product.time, "perf_counter", lambda: now[0])

    def taking(*seconds: float) -> Form:
        rounds = iter((0.0, *seconds))  # after a first one

        def form(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            now[0] += next(rounds)
            return x

        return form

    weight = torch.empty(2048, 6144)  # one copy is as large as a cache
    for plain, other, is_clear in ((5.0, 3.9, True), (5.0, 4.1, False), (4.0, 5.0, False)):
        forms = [taking(9.0, plain, 9.0, 9.0), taking(*(20 * other,) * 3, other), taking(*(8.0,) * 4)]
        assert fastest(forms, 8, weight) is forms[is_clear]


def test_a_choice_is_made_once_and_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process takes the recorded forms without timing, and ignores forms that it does not know."""
    weight, timed = torch.empty(512, 1024), []

    def last(forms: list[Form], rows: int | None, weight: torch.Tensor) -> Form:
        timed.append((len(forms), rows))
        return forms[-1]

    monkeypatch.setattr(product, "fastest", last)
    monkeypatch.setattr(product, "_choices", {})
    monkeypatch.setattr(product, "_chosen", {})
    taken = [chosen(rows, weight) for rows in (1, 1, 5, 8, 7, 64, 65, 100)]
    assert taken == [in_blocks] * 2 + [by_convolution] * 6
    assert timed == [(3, 1), (3, 8), (3, 64), (2, None)]
    assert chosen(100, weight, trains=True) is by_convolution
    recorded = json.loads(json.dumps(choices()))
    monkeypatch.setattr(product, "fastest", None)
    monkeypatch.setattr(product, "_choices", {})
    monkeypatch.setattr(product, "_chosen", {})
    repeat({**recorded, "many rows of the future": "by_magic"})
    assert choices() == recorded
    assert [chosen(rows, weight) for rows in (1, 100)] == [in_blocks, by_convolution]


def test_forms_that_can_pay() -> None:
    weight = torch.empty(1024, 1024)
    assert applicable(9, weight, trains=True) == [rows_first]
    assert applicable(16, weight, trains=True) == [rows_first, by_convolution]
    assert by_convolution not in applicable(9, weight.double(), trains=False)  # oneDNN has it only in float32
    assert applicable(9, weight[:4, :4], trains=False) == [rows_first]  # which costs less to call
    assert applicable(9, weight.to("meta"), trains=False) == [rows_first]


@pytest.mark.parametrize("rows", [3, 65])
def test_gradients_by_convolution(rows: int) -> None:
    """First and second derivatives, which the plain product has too, agree with differences."""
    x, weight = (torch.tensor(a, requires_grad=True) for a in (normal(0, rows, 4), normal(1, 5, 4)))
    assert torch.autograd.gradcheck(by_convolution, (x, weight))
    assert torch.autograd.gradgradcheck(by_convolution, (x, weight))


def test_training_by_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen weights and gradients of ones are supported, too."""
    monkeypatch.setattr(product, "chosen", lambda rows, weight, trains: by_convolution)
    x, weight = normal(0, 4, 20, 12), normal(1, 7, 12)
    x32, weight32 = (torch.tensor(a, dtype=torch.float32, requires_grad=True) for a in (x, weight))
    y = project(x32, weight32)
    assert_close(y.detach().numpy(), np.einsum("bti,oi->bto", x, weight), "float32")
    of_x, of_weight = torch.autograd.grad(y.sum(), (x32, weight32))
    assert_close(of_x.numpy(), np.broadcast_to(weight.sum(0), x.shape), "float32")
    assert_close(of_weight.numpy(), np.broadcast_to(x.sum((0, 1)), weight.shape), "float32")
    (of_x,) = torch.autograd.grad(project(x32, weight32.detach()).sum(), x32)
    assert_close(of_x.numpy(), np.broadcast_to(weight.sum(0), x.shape), "float32")
    (node,) = {function for function, _ in y.grad_fn.next_functions} if y.grad_fn else {None}
    assert "Convolution" in str(node)


def test_transposes_are_gated_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product without gradients may return a transpose, if it does not fit the processor's cache."""
    monkeypatch.setattr(blocks, "_ELEMENTS", 16)
    a, b = normal(0, 8, 6), normal(1, 8, 6)
    with torch.no_grad():
        gated = apply(blocks.SiLUGate, torch.tensor(a).T, torch.tensor(b).T)
    assert_close(gated.numpy(), (a / (1 + np.exp(-a)) * b).T, "float64")
