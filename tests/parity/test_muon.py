"""Parity of Muon over one step and over 300, and the laws of its orthogonal update."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from jax_impl import optimizer as in_jax
from lm.budgets import BUDGETS, RUN, Dtype, relative_error
from lm.config import MuonDtype, MuonScale
from lm.flops import newton_schulz_flops
from parity import oracle
from parity.case import Case
from tests.lm.accounting.test_accounting import dots
from tests.parity.support import assert_parity, cases, examples, normal
from torch_impl import optimizer as in_torch

STEPS = 300
SHAPES = ((6, 6), (12, 5), (5, 12))
"""Square, tall and wide: few, since JAX compiles each."""
SCALES: tuple[MuonScale, ...] = ("original", "match_rms_adamw")
LOWEST, HIGHEST = 0.68, 1.14
"""The published polynomial sends every singular value from 0.0075 to 1 into this band (see the first test)."""

_jitted = jax.jit(in_jax.orthogonalize, static_argnums=1)


def both(x: np.ndarray, dtype: Dtype) -> list[np.ndarray]:
    """Return torch's and JAX's orthogonal matrix. In bfloat16 the matrix is float32, and the products are bfloat16."""
    of_weights = "float32" if dtype == "bfloat16" else dtype
    products: MuonDtype = "bfloat16" if dtype == "bfloat16" else "float32"
    a = in_torch.orthogonalize(torch.tensor(x, dtype=getattr(torch, of_weights)), products)
    b = _jitted(jnp.array(x, of_weights), products)
    return [a.double().numpy(), np.asarray(b, np.float64)]


@pytest.mark.parametrize("dtype", BUDGETS)
@examples(6)
@given(case=cases("muon"))
def test_parity(case: Case, dtype: Dtype) -> None:
    assert_parity(case, dtype)


def test_the_published_band_of_singular_values() -> None:
    s = oracle.newton_schulz(np.linspace(0.0075, 1.0, 100_000))
    assert LOWEST < s.min() < s.max() < HIGHEST


def matrix(shape: tuple[int, int], seed: int, smallest: float) -> np.ndarray:
    """Draw a matrix with singular values from 1 down to `smallest`, of any size."""
    rng = np.random.default_rng(seed)
    U, _, Vt = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    s = np.geomspace(1.0, smallest, min(shape))
    return np.asarray(U * s @ Vt * 10.0 ** rng.uniform(-4, 4))


@examples(20)
@given(st.sampled_from(SHAPES), st.integers(0, 99), st.sampled_from([1.0, 0.3, 0.03]))
@pytest.mark.parametrize("dtype", BUDGETS)
def test_orthogonal_updates_agree_with_the_oracle(
    dtype: Dtype, shape: tuple[int, int], seed: int, smallest: float
) -> None:
    """A Newton-Schulz step multiplies an error in a small singular value by 3.4: 500 times in all.

    So the bound is that of a model with several layers, and bfloat16 is held to the band of singular values alone.
    """
    x = matrix(shape, seed, smallest)
    expected = oracle.orthogonalize(x.astype("float64" if dtype == "float64" else "float32").astype(float))
    for found in both(x, dtype):
        if dtype == "bfloat16":
            assert np.linalg.norm(found, 2) < 1.3
            assert (found * expected).sum() > 0.9 * np.linalg.norm(found) * np.linalg.norm(expected)
        else:
            assert relative_error(found, expected) < BUDGETS[dtype].model_gradient


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_come_near_one_and_singular_vectors_stay(shape: tuple[int, int]) -> None:
    x = matrix(shape, 3, 0.1)
    for found in both(x, "float64"):
        s = np.linalg.svd(found)[1]
        assert LOWEST < s.min() < s.max() < HIGHEST
        # x is positive along the pairs of singular vectors: the product with x is symmetric and positive definite.
        product = found.T @ x if shape[0] >= shape[1] else found @ x.T
        np.testing.assert_allclose(product, product.T, atol=1e-12 * np.abs(product).max())
        assert np.linalg.eigvalsh(product).min() > -1e-9 * np.abs(product).max()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_transpose_of_a_matrix_gives_the_transpose(dtype: Dtype) -> None:
    x = normal(5, 12, 5)
    for tall, wide in zip(both(x, dtype), both(x.T, dtype), strict=True):
        assert relative_error(tall, wide.T) < BUDGETS[dtype].model_gradient


@pytest.mark.parametrize("shape", SHAPES)
def test_products_cost_what_a_wide_matrix_costs(shape: tuple[int, int]) -> None:
    """The square matrices have the shorter side, so that a tall matrix costs no more than its transpose."""
    with FlopCounterMode(display=False) as counter:
        in_torch.orthogonalize(torch.ones(shape))
    assert counter.get_total_flops() == newton_schulz_flops(*shape)
    assert sum(dots(jax.make_jaxpr(in_jax.orthogonalize)(jnp.ones(shape)).jaxpr)) == newton_schulz_flops(
        *shape
    )


@pytest.mark.parametrize("dtype", BUDGETS)
def test_rank_deficient_and_zero_matrices_stay_finite(dtype: Dtype) -> None:
    x = np.outer(normal(1, 12), normal(2, 5))
    for found in both(x, dtype):
        s = np.linalg.svd(found)[1]
        assert LOWEST - 0.05 < s[0] < HIGHEST + 0.15
        assert s[1] < 1e-2 * s[0] if dtype != "bfloat16" else np.isfinite(s).all()
    for found in both(np.zeros((12, 5)), dtype):
        np.testing.assert_array_equal(found, 0)


@examples(10)
@given(st.floats(-6, 6))
def test_the_size_of_a_gradient_does_not_matter(power: float) -> None:
    x = normal(5, 6, 6)
    for small, usual in zip(both(x * 10**power, "float64"), both(x, "float64"), strict=True):
        assert relative_error(small, usual) < BUDGETS["float64"].model_gradient


Run = tuple[np.ndarray, np.ndarray]


def run_torch(start: np.ndarray, steps: int, dtype: str, scale: MuonScale) -> Run:
    """Return weight and momentum after `steps` steps of torch's Muon."""
    p = torch.nn.Parameter(torch.tensor(start, dtype=getattr(torch, dtype)))
    optimizer = in_torch.Muon([p], 0.02, 0.95, 0.1, scale)
    for t in range(steps):
        p.grad = torch.tensor(gradient(t, start.shape), dtype=p.dtype)
        optimizer.step()
    return p.detach().double().numpy(), optimizer.state[p]["m"].double().numpy()


def run_jax(start: np.ndarray, steps: int, dtype: str, scale: MuonScale) -> Run:
    """Return those of JAX's Muon."""
    params = jnp.array(start, dtype)
    state = in_jax.muon_init(params)
    options: dict[str, Any] = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1, "scale": scale}
    update = jax.jit(partial(in_jax.muon_update, **options))
    for t in range(steps):
        params, state = update(jnp.array(gradient(t, start.shape), dtype), state, params)
    return np.asarray(params, np.float64), np.asarray(state.m, np.float64)


def run_oracle(start: np.ndarray, steps: int, dtype: str, scale: MuonScale) -> Run:
    """Return those of the oracle's Muon, which gets the same rounded gradients."""
    optimizer, weights = oracle.Muon(0.95, 0.1, scale), {"w": start}
    for t in range(steps):
        g = gradient(t, start.shape).astype(dtype).astype(float)
        weights = optimizer.step(weights, {"w": g}, 0.02)
    return weights["w"], optimizer.m["w"]


def gradient(t: int, shape: tuple[int, ...]) -> np.ndarray:
    """Draw the gradient of step t, of any size."""
    rng = np.random.default_rng(t)
    return np.asarray(rng.standard_normal(shape) * 10.0 ** rng.uniform(-3, 3))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", RUN)
def test_300_steps(dtype: Literal["float64", "float32"], shape: tuple[int, int], scale: MuonScale) -> None:
    runs = [run(normal(0, *shape), STEPS, dtype, scale) for run in (run_torch, run_jax, run_oracle)]
    for one, other in ((0, 2), (1, 2), (0, 1)):
        for a, b in zip(runs[one], runs[other], strict=True):
            assert relative_error(a, b) <= RUN[dtype]


class _Wide(TorchFunctionMode):
    """Let torch.optim.Muon compute in float64 where it asks for bfloat16."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.bfloat16:
            return args[0].double()
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", SHAPES)
def test_100_steps_equal_those_of_torchs_own_muon(shape: tuple[int, int], scale: MuonScale) -> None:
    """torch.optim.Muon computes its products in bfloat16, here in float64. Older releases of torch have no Muon."""
    start = normal(0, *shape)
    ours, _ = run_torch(start, 100, "float64", scale)
    p = torch.nn.Parameter(torch.tensor(start))
    theirs = torch.optim.Muon([p], 0.02, 0.1, 0.95, adjust_lr_fn=scale)
    with _Wide():
        for t in range(100):
            p.grad = torch.tensor(gradient(t, shape))
            theirs.step()
    assert relative_error(ours, p.detach().numpy()) <= RUN["float64"]


def test_what_is_not_a_matrix_is_refused() -> None:
    from tokenizer.errors import InputError

    with pytest.raises(InputError, match="updates matrices alone"):
        in_torch.Muon([torch.nn.Parameter(torch.zeros(3))])
