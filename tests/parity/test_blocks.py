"""Attention at the edges of its blocks: every mask, groups of heads, padding, prefixes, documents, dropout, every type.

Blocks of the fast forms have four queries and four keys here, so that short sequences have several blocks.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import jax_impl.attention
import jax_impl.fast.attention
import jax_impl.functional
import jax_impl.masks
import torch_impl.attention
import torch_impl.fast.attention
import torch_impl.functional
import torch_impl.masks
from lm.budgets import BUDGETS, Dtype, as_dtype, relative_error
from lm.dropout import dropout_mask
from parity import oracle
from parity.case import Arrays
from parity.oracle.attention import attention_weights
from parity.run import evaluators
from tests.parity.support import DTYPES, examples
from tests.pretend_gpu import pretend_gpu
from torch_impl import fast
from torch_impl.fast.tiles import make_plan

BLOCK = 4
LENGTHS = (1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 1)
B, H, G, K = 2, 4, 2, 4
RATE, SEED, STEP, ROWS = 0.3, 5, 2, np.array([3, 8], np.int32)
Ranges = tuple[np.ndarray, np.ndarray, np.ndarray]
"""The first and the last key of each query, and which keys exist."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_impl.fast.attention, "BLOCK_GPU", (BLOCK, BLOCK))
    for module in (torch_impl.fast.attention, jax_impl.fast.attention):
        for size in ("QUERIES", "KEYS"):
            monkeypatch.setattr(module, size, BLOCK, raising=module is torch_impl.fast.attention)
    evaluators()  # sets both frameworks up for float64


def ranges(kind: str, T: int, rng: np.random.Generator) -> Ranges:
    """Draw a mask of this kind."""
    t, exists = np.broadcast_to(np.arange(T), (B, T)), np.ones((B, T), bool)
    count = rng.integers(1, T + 1, (B, 1))
    if kind == "documents":
        begins = (rng.random((B, T)) < 0.3) | (t == 0)
        return np.maximum.accumulate(np.where(begins, t, 0), 1), t, exists
    if kind == "padding":
        return 0 * t, 0 * t + T - 1, t < count
    if kind == "prefix":
        P = int(count.max())
        return 0 * t, np.maximum(t, P - 1), (t < count) | (t >= P)
    if kind in ("window", "windows of documents"):
        first = ranges("documents", T, rng)[0] if kind != "window" else 0
        return np.maximum(first, t - int(rng.integers(1, T + 1)) + 1), t, exists
    if kind == "ranges":  # Some are empty.
        return rng.integers(0, T, (B, T)), rng.integers(0, T, (B, T)), rng.random((B, T)) < 0.8
    return 0 * t, t, exists


KINDS = ("causal", "documents", "padding", "prefix", "ranges", "window", "windows of documents")
CAP = 1.5


def pairs(mask: Ranges) -> np.ndarray:
    """Write the mask out, (B, 1, T, S)."""
    first, last, exists = mask
    s = np.arange(exists.shape[1])
    return ((first[..., None] <= s) & (s <= last[..., None]) & exists[:, None])[:, None]


def draw(T: int, rng: np.random.Generator, dtype: Dtype) -> Arrays:
    shapes = {"q": (B, H, T, K), "k": (B, G, T, K), "v": (B, G, T, K)}
    return {name: as_dtype(rng.standard_normal(shape), dtype) for name, shape in shapes.items()}


def by_oracle(
    arrays: Arrays, mask: np.ndarray, kept: np.ndarray | float, g: np.ndarray, cap: float | None
) -> tuple[np.ndarray, Arrays]:
    """Return output and gradients."""

    def attend(a: Mapping[str, np.ndarray]) -> np.ndarray:
        k, v = (np.repeat(a[name], H // G, -3) for name in "kv")
        v = np.where(np.asarray(mask.any(-2))[..., None], v, 0)
        return np.einsum("...ts,...sv->...tv", attention_weights(a["q"], k, mask, cap) * kept, v)

    return attend(arrays), oracle.gradient(attend, arrays, g)


def by_torch(
    arrays: Arrays,
    mask: Any,
    drop: bool,
    g: np.ndarray,
    dtype: Dtype,
    cap: float | None = None,
    device: str = "cpu",
) -> tuple[Any, Arrays]:
    put = partial(torch.tensor, device=device)
    q, k, v = (put(a, dtype=getattr(torch, dtype)).requires_grad_() for a in arrays.values())
    key = torch_impl.functional.DropoutKey(SEED, STEP, put(ROWS), "here.")
    dropout = torch_impl.functional.Dropout(RATE, key, "weights") if drop else None
    if isinstance(mask, np.ndarray):
        mask = put(mask)
    elif mask is not None:
        mask = torch_impl.masks.Mask(*(put(x) for x in mask))
    out = torch_impl.attention.grouped_query_attention(q, k, v, mask, dropout, cap)
    gradients = torch.autograd.grad(out, (q, k, v), put(g, dtype=out.dtype))
    return out.detach().cpu().double().numpy(), {
        name: x.cpu().double().numpy() for name, x in zip(arrays, gradients, strict=True)
    }


@partial(jax.jit, static_argnames=("drop", "cap"))
def in_jax(inputs: Any, mask: Any, drop: bool, g: jax.Array, cap: float | None) -> Any:
    key = jax_impl.functional.DropoutKey(SEED, jnp.int32(STEP), jnp.array(ROWS), "here.")
    dropout = jax_impl.functional.Dropout(RATE, key, "weights") if drop else None
    out, pull_back = jax.vjp(
        lambda q, k, v: jax_impl.attention.grouped_query_attention(q, k, v, mask, dropout, cap), *inputs
    )
    return out, pull_back(g.astype(out.dtype))


def by_jax(
    arrays: Arrays, mask: Any, drop: bool, g: np.ndarray, dtype: Dtype, cap: float | None = None
) -> tuple[Any, Arrays]:
    inputs = tuple(jnp.array(a.astype(jnp.dtype(dtype))) for a in arrays.values())
    if isinstance(mask, np.ndarray):
        mask = jnp.array(mask)
    elif mask is not None:
        mask = jax_impl.masks.Mask(*(jnp.array(x) for x in mask))
    out, gradients = in_jax(inputs, mask, drop, jnp.array(g), cap)
    return np.asarray(out, np.float64), {
        name: np.asarray(x, np.float64) for name, x in zip(arrays, gradients, strict=True)
    }


def assert_agrees(
    T: int,
    seed: int,
    dtype: Dtype,
    mask: Any,
    drop: bool = False,
    with_jax: bool = True,
    cap: float | None = None,
    device: str = "cpu",
) -> None:
    """Hold torch's fast form, torch's formula and JAX's fast form to the oracle."""
    __tracebackhide__ = True
    rng = np.random.default_rng(seed)
    arrays, g = draw(T, rng, dtype), as_dtype(rng.standard_normal((B, H, T, K)), dtype)
    kept: np.ndarray | float = 1.0
    if drop:
        kept = dropout_mask(SEED, "here.weights", STEP, ROWS, (H, T, T), RATE) / (1 - RATE)
    written = (
        np.ones((B, 1, T, T), bool) if mask is None else mask if isinstance(mask, np.ndarray) else pairs(mask)
    )
    output, gradients = by_oracle(arrays, written, kept, g, cap)
    answers = {"torch": by_torch(arrays, mask, drop, g, dtype, cap, device)}
    with fast.used(False):
        answers["torch plain"] = by_torch(arrays, mask, drop, g, dtype, cap, device)
    if with_jax:
        answers["jax"] = by_jax(arrays, mask, drop, g, dtype, cap)
    for name, (out, gradients_of) in answers.items():
        assert relative_error(out, output) <= BUDGETS[dtype].forward, (name, "output")
        for array, exact in gradients.items():
            error = relative_error(gradients_of[array], exact, float(np.linalg.norm(g)))
            assert error <= BUDGETS[dtype].gradient, (name, array)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", LENGTHS)
@examples(5)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32 - 1))
def test_masks_of_ranges(T: int, dtype: Dtype, kind: str, seed: int) -> None:
    assert_agrees(T, seed, dtype, ranges(kind, T, np.random.default_rng(seed)))


@pytest.mark.parametrize("limit", [1, 4 * BLOCK * BLOCK])
@examples(10)
@given(
    kind=st.sampled_from((*KINDS, "dense", "none")),
    T=st.sampled_from(LENGTHS),
    cap=st.sampled_from((None, CAP)),
    seed=st.integers(0, 2**32 - 1),
)
def test_tiles_of_one_head_and_of_several(
    limit: int, kind: str, T: int, cap: float | None, seed: int
) -> None:
    """In torch, a tile has as many heads as keep its scores in the processor's cache. JAX has no such limit."""
    rng = np.random.default_rng(seed)
    mask: Any = None if kind == "none" else ranges(kind, T, rng)
    if kind == "dense":
        mask = rng.random((B, 1, T, T)) < 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_impl.fast.attention, "ROWS_BLOCK", limit)
        assert_agrees(T, seed, "float64", mask, with_jax=False, cap=cap)
        assert_agrees(T, seed, "float64", mask, drop=True, with_jax=False, cap=cap)


@pytest.mark.parametrize("dtype", DTYPES)
@examples(3)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32 - 1))
def test_capped_scores(dtype: Dtype, kind: str, seed: int) -> None:
    """With dropout, as the gradient of a cap, of weights and of dropped weights follow from each other."""
    T = LENGTHS[-1]
    assert_agrees(T, seed, dtype, ranges(kind, T, np.random.default_rng(seed)), drop=True, cap=CAP)


@pytest.mark.parametrize(("drop", "cap"), [(False, None), (True, CAP)])
def test_a_gpu_multiplies_bfloat16(drop: bool, cap: float | None) -> None:
    T = LENGTHS[-1]
    with pretend_gpu():
        mask = ranges("ranges", T, np.random.default_rng(3))
        assert_agrees(T, 3, "bfloat16", mask, drop, with_jax=False, cap=cap, device="cuda:0")


@pytest.mark.parametrize("mask", ["none", "dense", "causal", "causal, dropped"])
def test_masks_and_dropout_in_both_packages(mask: str) -> None:
    """A dense mask, no mask, a mask that serves all sequences, and dropout of weights."""
    T, rng = LENGTHS[-1], np.random.default_rng(1)
    masks: dict[str, Any] = {"none": None, "dense": rng.random((B, 1, T, T)) < 0.5}
    assert_agrees(T, 1, "float32", masks.get(mask, ranges("causal", T, rng)), drop="dropped" in mask)


@pytest.mark.parametrize("T", LENGTHS)
def test_the_causal_mask_serves_all_sequences(T: int) -> None:
    """It has no batch axis."""
    q, k, v = (torch.tensor(a) for a in draw(T, np.random.default_rng(T), "float64").values())
    mask = torch_impl.masks.causal_mask(T)
    found = torch_impl.attention.grouped_query_attention(q, k, v, mask)
    dense = mask.pairs(T).expand(B, 1, T, T)
    expected = torch_impl.attention.grouped_query_attention(q, k, v, dense)
    assert relative_error(found.numpy(), expected.numpy()) <= BUDGETS["float64"].forward


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("evaluate", [by_torch, by_jax])
def test_keys_of_padding_are_not_read(evaluate: Callable[..., Any], poison: float) -> None:
    """Padding begins inside a block, and fills blocks of its own."""
    T, rng = LENGTHS[-1], np.random.default_rng(2)
    t = np.broadcast_to(np.arange(T), (B, T))
    mask = (0 * t, 0 * t + T - 1, t < np.array([[BLOCK + 1], [T]]))
    arrays, g = draw(T, rng, "float32"), rng.standard_normal((B, H, T, K))
    clean = evaluate(arrays, mask, False, g, "float32")
    for name in "kv":
        arrays[name][0, :, BLOCK + 1 :] = poison
    output, gradients = evaluate(arrays, mask, False, g, "float32")
    np.testing.assert_array_equal(output, clean[0])
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, clean[1][name])


@pytest.mark.parametrize("with_documents", [False, True])
def test_torch_skips_the_blocks_outside_of_a_window(with_documents: bool) -> None:
    """With blocks as long as the window, queries meet the keys of their own block and of the block before."""
    T, window = 6 * BLOCK, BLOCK
    start = torch.zeros(2, T, dtype=torch.int64)
    causal = torch_impl.masks.causal_mask(T, window=window)
    mask = torch_impl.masks.document_mask(start, window) if with_documents else causal
    sizes = 2, G, H // G, T, T
    plan = make_plan(mask, sizes, (BLOCK, BLOCK), 1 << 18, torch.float32, torch.device("cpu"))
    met = [[s.start // BLOCK for s, _ in tile.keys] for tile in plan.tiles]
    assert met == [[max(i - 1, 0), i] if i else [0] for i in range(6)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_knows_the_keys_that_no_query_reads(kind: str) -> None:
    T = 9
    for seed in range(20):
        mask = ranges(kind, T, np.random.default_rng(seed))
        planned = torch_impl.masks.Mask(*(torch.tensor(x) for x in mask))
        plan = make_plan(planned, (B, G, 1, T, T), (4, 4), 64, torch.float32, torch.device("cpu"))
        unread_BS = ~pairs(mask).any((1, 2))
        found_BS = np.zeros_like(unread_BS) if plan.unread_BS is None else plan.unread_BS.numpy()
        assert (found_BS == unread_BS).all()
