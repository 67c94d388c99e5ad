"""Parity of AdamW and SGD over one step and over 500, and their limits."""

import inspect
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jax_impl.optimizer import adamw_init, adamw_update, sgd_init, sgd_update
from lm.budgets import RUN, Dtype, relative_error
from lm.config import AdamWForm
from parity import oracle
from parity.case import Case
from tests.parity.support import DTYPES, assert_close, assert_parity, cases, examples, normal
from tokenizer.errors import InputError
from torch_impl.optimizer import SGD, AdamW, Muon

STEPS = 500
SCALES = np.array([1e-30, 1e-18, 1e-9, 1e-4, 1.0, 1e4, 1e9, 1e15])
"""Of the gradients of each row: squares that vanish, are denormal, and come near the end of float32's range."""
Run = tuple[np.ndarray, dict[str, np.ndarray]]
Gradient = Callable[[int], np.ndarray]


@pytest.mark.parametrize(
    "layer", ["adamw", "sgd", *(f"one step of adamw, {form}" for form in get_args(AdamWForm))]
)
@pytest.mark.parametrize("dtype", DTYPES)
@examples(6)
@given(case=cases("adamw"))
def test_parity(case: Case, layer: str, dtype: Dtype) -> None:
    """A step of AdamW is compared in units in the last place, too."""
    assert_parity(Case(layer, case.shape, case.seed, case.scale), dtype)


def run_torch(weight: np.ndarray, gradient: Gradient, steps: int, dtype: str, **options: Any) -> Run:
    """Return weights and moments after `steps` steps of torch's AdamW."""
    p = torch.nn.Parameter(torch.tensor(weight, dtype=getattr(torch, dtype)))
    optimizer = AdamW([p], **options)
    for t in range(steps):
        p.grad = torch.tensor(gradient(t), dtype=p.dtype)
        optimizer.step()
    moments = {name: optimizer.state[p][name].double().numpy() for name in ("m", "v")}
    return p.detach().double().numpy(), moments


def run_jax(weight: np.ndarray, gradient: Gradient, steps: int, dtype: str, **options: Any) -> Run:
    """Return those of JAX's AdamW."""
    params = jnp.array(weight, dtype)
    state = adamw_init(params)
    update = jax.jit(lambda *args: adamw_update(*args, **options))
    for t in range(steps):
        params, state = update(jnp.array(gradient(t), dtype), state, params)
    return np.asarray(params, np.float64), {
        name: np.asarray(getattr(state, name), np.float64) for name in ("m", "v")
    }


def run_oracle(weight: np.ndarray, gradient: Gradient, steps: int, dtype: str, **options: Any) -> Run:
    """Return those of the oracle's AdamW, which gets the same rounded gradients."""
    optimizer = oracle.AdamW(
        options["betas"], options["eps"], options["weight_decay"], options.get("form", "course")
    )
    weights = {"w": weight}
    for t in range(steps):
        weights = optimizer.step(weights, {"w": gradient(t).astype(dtype).astype(float)}, options["lr"])
    return weights["w"], {"m": optimizer.m["w"], "v": optimizer.v["w"]}


def both(
    weight: np.ndarray, gradient: Gradient, steps: int = 1, dtype: str = "float32", **changes: Any
) -> list[Run]:
    """Return torch's, JAX's and the oracle's run, with the usual hyperparameters except `changes`."""
    options = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1} | changes
    return [run(weight, gradient, steps, dtype, **options) for run in (run_torch, run_jax, run_oracle)]


def gradients(t: int) -> np.ndarray:
    """Draw the gradients of step t: rows of very different size, with changing signs."""
    return SCALES[:, None] * np.random.default_rng(t).standard_normal((len(SCALES), 16))


@pytest.mark.parametrize("dtype", RUN)
def test_500_steps_of_adamw(dtype: Literal["float64", "float32"]) -> None:
    """Rows are compared one by one, so that large gradients do not hide small ones."""
    start = normal(0, len(SCALES), 16)
    torch_run, jax_run, oracle_run = both(start, gradients, STEPS, dtype)
    for (a, a_moments), (b, b_moments) in (
        (torch_run, oracle_run),
        (jax_run, oracle_run),
        (torch_run, jax_run),
    ):
        for row, scale in enumerate(SCALES):
            assert relative_error(a[row], b[row]) <= RUN[dtype]
            assert relative_error(a_moments["m"][row], b_moments["m"][row]) <= RUN[dtype]
            if dtype == "float64" or scale >= 1e-9:  # otherwise float32's second moment is denormal, or zero
                assert relative_error(a_moments["v"][row], b_moments["v"][row]) <= RUN[dtype]


@pytest.mark.parametrize("dtype", RUN)
def test_500_steps_of_sgd(dtype: Literal["float64", "float32"]) -> None:
    start, lr = normal(0, len(SCALES), 16), 0.01
    p = torch.nn.Parameter(torch.tensor(start, dtype=getattr(torch, dtype)))
    torch_sgd, oracle_sgd = SGD([p], lr), oracle.SGD()
    params = jnp.array(start, dtype)
    state, update, weights = sgd_init(params), jax.jit(sgd_update), {"w": start}
    for t in range(STEPS):
        g = gradients(t)
        p.grad = torch.tensor(g, dtype=p.dtype)
        torch_sgd.step()
        params, state = update(jnp.array(g, dtype), state, params, lr)
        weights = oracle_sgd.step(weights, {"w": g.astype(dtype).astype(float)}, lr)
    a, b = p.detach().double().numpy(), np.asarray(params, np.float64)
    for row in range(len(SCALES)):
        assert relative_error(a[row], weights["w"][row]) <= RUN[dtype]
        assert relative_error(b[row], weights["w"][row]) <= RUN[dtype]
        assert relative_error(a[row], b[row]) <= RUN[dtype]


@examples(10)
@given(
    st.sampled_from([(0.9, 0.999), (0.0, 0.9), (0.9, 0.0), (0.95, 0.99999)]),
    st.sampled_from([1e-8, 1e-3, 1.0]),
    st.sampled_from([0.0, 0.1]),
)
def test_hyperparameters(betas: tuple[float, float], eps: float, weight_decay: float) -> None:
    """The changes of the weights are compared: beside the weights, errors of a step of 1e-3 would not show."""
    start = np.zeros(12)
    runs = both(start, lambda t: normal(t, 12), 3, betas=betas, eps=eps, weight_decay=weight_decay)
    for run in runs[:2]:
        assert_close(run[0], runs[2][0])


def test_epsilon_is_added_before_bias_correction() -> None:
    """The first step is lr g / (|g| + eps / sqrt(1 - beta2)), not lr g / (|g| + eps)."""
    g = np.full(4, 1e-3)
    runs = both(np.zeros(4), lambda t: g, eps=1e-3, weight_decay=0.0)
    for weights, _ in runs:
        assert_close(weights, -1e-3 * g / (g + 1e-3 / np.sqrt(1 - 0.999)))


def test_decay_follows_the_update_and_takes_the_plain_rate() -> None:
    """The decay acts on the updated weight and multiplies by lr, not by the bias-corrected rate."""
    start, lr, decay = np.full(4, 2.0), 0.1, 0.5
    for weights, _ in both(start, lambda t: np.ones(4), lr=lr, weight_decay=decay, eps=0.0):
        assert_close(weights, (start - lr) * (1 - lr * decay))


@pytest.mark.parametrize("form", ["course-2026", "torch"])
@pytest.mark.parametrize("dtype", RUN)
def test_100_steps_of_the_other_forms(dtype: Literal["float64", "float32"], form: str) -> None:
    """Epsilon and decay are large, so that their places show."""
    options = {"form": form, "eps": 1e-2, "weight_decay": 0.3, "lr": 1e-2}
    runs = both(normal(0, 8), lambda t: normal(t, 8), 100, dtype, **options)
    for a, b in ((0, 2), (1, 2), (0, 1)):
        assert relative_error(runs[a][0], runs[b][0]) <= RUN[dtype]
    course = run_oracle(
        normal(0, 8), lambda t: normal(t, 8), 100, dtype, betas=(0.9, 0.999), **options | {"form": "course"}
    )
    assert relative_error(course[0], runs[2][0]) > 1e-4


@pytest.mark.parametrize("eps", [1e-8, 1e-2])
def test_the_form_torch_equals_torchs_own_adamw(eps: float) -> None:
    start = normal(0, 8, 4)
    options: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": eps, "weight_decay": 0.1}
    ours = both(start, lambda t: normal(t, 8, 4), 100, "float64", form="torch", **options)
    p = torch.nn.Parameter(torch.tensor(start))
    theirs = torch.optim.AdamW([p], **options)
    for t in range(100):
        p.grad = torch.tensor(normal(t, 8, 4))
        theirs.step()
    for weights, _ in ours:
        assert relative_error(weights, p.detach().numpy()) <= RUN["float64"]


def test_zero_gradients_decay_the_weights_alone() -> None:
    start = normal(3, 8)
    for weights, moments in both(start, lambda t: np.zeros(8), 2):
        assert_close(weights, start * (1 - 1e-4) ** 2)
        assert not moments["m"].any()
        assert not moments["v"].any()


def test_tiny_decay_in_float32() -> None:
    """lr * decay of 1e-7 still decays: 1 - 1e-7 would round to 1 - 1.2e-7, a fifth too much. 1e-9 is lost."""
    start = (1 + np.random.default_rng(0).random(100_000)).astype(np.float32).astype(float)
    options: dict[str, Any] = {"lr": 1e-5, "weight_decay": 1e-2}
    torch_run, jax_run, _ = both(start, lambda t: np.zeros_like(start), **options)
    np.testing.assert_array_equal(torch_run[0], jax_run[0])
    assert abs((start - torch_run[0]).mean() / (1e-7 * start.mean()) - 1) < 0.05
    torch_run, jax_run, _ = both(start, lambda t: np.zeros_like(start), lr=1e-7, weight_decay=1e-2)
    np.testing.assert_array_equal(torch_run[0], start)
    np.testing.assert_array_equal(jax_run[0], start)


def test_bias_correction_is_accurate_at_the_first_steps() -> None:
    """1 - 0.999^1 in float32 would lose four digits by cancellation."""
    for run in (runs := both(np.zeros(8), lambda t: normal(4, 8), weight_decay=0.0))[:2]:
        assert_close(run[0], runs[2][0])


def test_sgd_divides_by_the_root_of_steps_plus_one() -> None:
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer, params = SGD([p], 1.0), jnp.zeros(1)
    state = sgd_init(params)
    for _ in range(4):
        p.grad = torch.ones(1)
        optimizer.step()
        params, state = sgd_update(jnp.ones(1), state, params, 1.0)
    expected = -sum(t**-0.5 for t in (1, 2, 3, 4))
    assert_close(p.detach().double().numpy(), expected)
    assert_close(np.asarray(params, np.float64), expected)
    assert int(state.step) == 4


def test_parameters_without_gradient_are_left_alone() -> None:
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    p.grad = torch.ones(3)
    optimizer = AdamW([p, q])
    optimizer.step()
    assert not torch.equal(p, torch.ones(3))
    assert torch.equal(q, torch.ones(3))


@pytest.mark.parametrize(
    ("optimizer", "least", "limits"),
    [
        (AdamW, {"lr": 0.0, "eps": 0.0, "weight_decay": 0.0}, {"betas": [(0.0, 1.0), (1.0, 0.0)]}),
        (Muon, {"lr": 0.0, "momentum": 0.0, "weight_decay": 0.0}, {"momentum": [1.0]}),
        (SGD, {"lr": 0.0}, {}),
    ],
)
def test_hyperparameters_outside_of_their_range_are_refused(
    optimizer: Any, least: dict[str, float], limits: dict[str, list[Any]]
) -> None:
    """The least value of each fits, as does a beta of 0; a value below does not, nor does a beta of 1."""
    p = torch.nn.Parameter(torch.ones(2, 2))
    optimizer([p], **least)
    below = [{name: np.nextafter(value, -1)} for name, value in least.items()]
    for wrong in below + [{name: value} for name, values in limits.items() for value in values]:
        with pytest.raises(InputError, match=optimizer.__name__):
            optimizer([p], **wrong)


@pytest.mark.parametrize(
    ("ours", "theirs", "names"),
    [
        (AdamW, torch.optim.AdamW, ("lr", "betas", "eps", "weight_decay")),
        (Muon, torch.optim.Muon, ("momentum",)),
    ],
)
def test_defaults_are_those_of_torch(ours: Any, theirs: Any, names: tuple[str, ...]) -> None:
    own, torchs = (inspect.signature(optimizer).parameters for optimizer in (ours, theirs))
    assert [own[name].default for name in names] == [torchs[name].default for name in names]
