"""Hand-written gradients: what autograd asks of them, apart from the parity that all layers are held to."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor

import jax_impl.attention
import jax_impl.masks
from tests.parity.support import assert_close, normal
from torch_impl import fast
from torch_impl.attention import scaled_dot_product_attention
from torch_impl.functional import token_cross_entropy
from torch_impl.layers import RMSNorm, SwiGLU
from torch_impl.masks import causal_mask

T = 70  # more than a block of queries


def tensor(seed: int, *shape: int) -> Tensor:
    return torch.tensor(normal(seed, *shape), requires_grad=True)


def attention(Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
    return scaled_dot_product_attention(Q, K, V, causal_mask(T).pairs(T))


CASES: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
    "attention": (attention, [tensor(i, 2, 3, T, 4) for i in range(3)]),
    "attention in blocks": (attention, [tensor(i, 2, 3, T, 4) for i in range(3)]),
    "rmsnorm": (RMSNorm(8, dtype=torch.float64), [tensor(3, 5, 8)]),
    "swiglu": (SwiGLU(8, 6, dtype=torch.float64), [tensor(4, 5, 8)]),
    "cross_entropy": (lambda x: token_cross_entropy(x, torch.arange(5)), [tensor(5, 5, 9)]),
}


@pytest.fixture(autouse=True)
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set all size limits so that no array is small; the case says whether scores fit one block."""
    monkeypatch.setattr(fast.blocks, "_SMALL", 0)
    if "blocks" in request.node.name:
        monkeypatch.setattr(fast.attention, "QUERIES", 16)
        monkeypatch.setattr(fast.attention, "KEYS", 8)


@pytest.mark.parametrize("name", CASES)
def test_plain_and_fast_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large arrays are computed in blocks; here the blocks are small instead."""
    function, inputs = CASES[name]
    monkeypatch.setattr(fast.blocks, "_ELEMENTS", 7)
    answers = []
    for on in (True, False):
        with fast.used(on):
            output = function(*inputs)
        answers.append([output, *torch.autograd.grad(output, inputs, torch.ones_like(output).cumsum(0))])
    for by_form, by_formula in zip(*answers, strict=True):
        assert_close(by_form.detach().numpy(), by_formula.detach().numpy(), "float64", "gradient")


@pytest.mark.parametrize("name", CASES)
def test_gradients_again_from_the_same_saved_values(name: str) -> None:
    """With retain_graph the second gradient has the same bits, and twice the flow gives twice the gradient."""
    function, inputs = CASES[name]
    output = function(*inputs)
    flow = torch.tensor(normal(9, *output.shape))
    first, again, twice = (
        torch.autograd.grad(output, inputs, g, retain_graph=True) for g in (flow, flow, 2 * flow)
    )
    for one, same, double in zip(first, again, twice, strict=True):
        assert torch.equal(one, same)
        assert torch.equal(2 * one, double)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_gradients_are_refused(name: str) -> None:
    function, inputs = CASES[name]
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        torch.autograd.grad(function(*inputs).sum(), inputs, create_graph=True)


@pytest.mark.parametrize("name", ["swiglu", "cross_entropy"])
def test_small_arrays_can_be_differentiated_twice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small arrays take the formula, whose gradient C++ calls: the hand-written gradient would take longer."""
    monkeypatch.undo()
    function, inputs = CASES[name]
    assert torch.autograd.gradgradcheck(function, inputs)


def test_a_block_of_queries_skips_the_keys_that_it_may_not_see() -> None:
    """Under a mask of two halves each half sees only its own keys."""
    mask = torch.zeros(2 * T, 2 * T, dtype=torch.bool)
    mask[:T, :T], mask[T:, T:] = True, True
    Q, K, V = (tensor(i, 40, 1, 2 * T, 4) for i in range(3))
    whole = scaled_dot_product_attention(Q, K, V, mask)
    for half in (slice(0, T), slice(T, 2 * T)):
        alone = scaled_dot_product_attention(Q[:, :, half], K[:, :, half], V[:, :, half], None)
        assert_close(whole[:, :, half].detach().numpy(), alone.detach().numpy(), "float64")


def test_jax_attention_can_be_differentiated_twice() -> None:
    """Its second derivative agrees with differences of its gradient."""
    Q, K, V = (jnp.array(normal(i, 1, 3, 2)) for i in range(3))
    mask = jax_impl.masks.causal_mask(3).pairs(3)

    def gradient(Q: jax.Array) -> jax.Array:
        return jax.grad(lambda Q: jax_impl.attention.scaled_dot_product_attention(Q, K, V, mask).sum())(Q)

    direction, step = jnp.array(normal(4, 1, 3, 2)), 1e-4
    second = jax.grad(lambda Q: (gradient(Q) * direction).sum())(Q)
    difference = (gradient(Q + step * direction) - gradient(Q - step * direction)) / (2 * step)
    np.testing.assert_allclose(second, difference, rtol=1e-6, atol=1e-8)
