"""JAX's attention in blocks: groups of heads, block sizes, soft caps, windows, all modes, and linear memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from bench.program import compile_step
from jax_impl import fast
from jax_impl.attention import grouped_query_attention
from jax_impl.attention import scaled_dot_product_attention as attend
from jax_impl.fast.blocks import _Blocks, attend_in_blocks
from jax_impl.functional import Dropout, DropoutKey
from jax_impl.masks import Mask, causal_mask
from lm.backend import load
from lm.budgets import BUDGETS, relative_error
from lm.config import ModelConfig, TrainConfig
from parity.run import evaluators
from tests.lm.accounting.cases import random_batch

B, H, T, S, K = 2, 4, 13, 10, 4


@pytest.fixture(autouse=True)
def frameworks() -> None:
    evaluators()  # sets JAX up for float64


def ranges(rng: np.random.Generator) -> Mask:
    """Draw a mask of ranges that differ by sequence. Some are empty, and some keys do not exist."""
    first, last = (jnp.array(rng.integers(low, high, (B, T))) for low, high in ((0, 6), (2, S)))
    return Mask(first, last, jnp.array(rng.random((B, S)) < 0.8))


MASKS: dict[str, Callable[[np.random.Generator], Any]] = {
    "ranges": ranges,
    "ranges of all sequences": lambda rng: Mask(jnp.array(np.zeros(T, int)), jnp.array(np.arange(T) % S)),
    "window": lambda rng: causal_mask(T, 3),
    "dense": lambda rng: jnp.array(rng.random((B, 1, T, S)) < 0.5),
    "dense, of all sequences": lambda rng: jnp.array(rng.random((T, S)) < 0.5),
    "none": lambda rng: None,
}


def dropout() -> Dropout:
    return Dropout(0.3, DropoutKey(5, jnp.int32(2), jnp.array([3, 8], jnp.int32), "here."), "weights")


def in_blocks(
    sizes: tuple[int, int] | None,
    q: Array,
    k: Array,
    v: Array,
    mask: Any,
    drop: Any,
    cap: float | None = None,
) -> Array:
    """Attend as `fast.grouped_query_attention` does, with blocks of these sizes or, without sizes, in one block."""
    if sizes is None:
        return grouped_query_attention(q, k, v, mask, drop, cap)
    if mask is not None and not isinstance(mask, Mask):
        mask = mask[..., None, :, :]
    G = k.shape[1]
    return attend_in_blocks(sizes, q.reshape(B, G, H // G, T, K), k, v, mask, drop, cap).reshape(q.shape)


CAP = 0.7
"""Low enough to bend most scores."""
CASES: list[tuple[str, int, tuple[int, int] | None, str, bool, float | None]] = [
    ("jit", H, (3, 4), "ranges of all sequences", True, None),
    ("jit", H, (5, 2), "dense, of all sequences", False, CAP),
    ("jit", 1, (5, 2), "ranges", True, CAP),
    ("jit", 1, (3, 4), "none", False, None),
    ("jit", 2, None, "ranges", False, CAP),
    ("remat", 2, (2, 8), "dense", True, CAP),
    ("jit", 2, (3, 2), "window", True, CAP),
    ("eager", 2, (4, 4), "ranges", False, None),
]


@pytest.mark.parametrize(("mode", "G", "sizes", "mask", "dropped", "cap"), CASES)
def test_blocks_agree_with_the_formula(
    mode: str, G: int, sizes: tuple[int, int] | None, mask: str, dropped: bool, cap: float | None
) -> None:
    """Output and gradients, in float64."""
    rng = np.random.default_rng(G)
    arrays = [jnp.array(rng.standard_normal((B, h, t, K))) for h, t in ((H, T), (G, S), (G, S), (H, T))]
    chosen, drop = MASKS[mask](rng), dropout() if dropped else None

    def answers(function: Callable[..., Array], q: Array, k: Array, v: Array, g: Array) -> tuple[Array, ...]:
        attend = partial(function, mask=chosen, drop=drop, cap=cap)
        out, pull_back = jax.vjp(jax.checkpoint(attend) if mode == "remat" else attend, q, k, v)
        return out, *pull_back(g)

    run = partial(answers, partial(in_blocks, sizes))
    found = (run if mode == "eager" else jax.jit(run))(*arrays)
    with fast.used(False):
        expected = jax.jit(partial(answers, grouped_query_attention))(*arrays)
    for x, exact in zip(found, expected, strict=True):
        assert relative_error(np.asarray(x), np.asarray(exact)) <= BUDGETS["float64"].gradient


def test_keys_and_values_that_no_query_sees_are_not_read() -> None:
    """They may be NaN under a mask of ranges and under a dense mask. Output and gradients keep their bits."""
    rng = np.random.default_rng(3)
    q, k, v, g = (jnp.array(rng.standard_normal((B, h, t, K))) for h, t in ((H, T), (2, S), (2, S), (H, T)))
    last = jnp.full((B, T), 5)
    for mask in (Mask(jnp.full((B, T), 1), last), jnp.zeros((B, 1, T, S), bool).at[..., 1:6].set(True)):

        @jax.jit
        def run(k: Array, v: Array, mask: Any = mask) -> Any:
            out, pull_back = jax.vjp(lambda q, k, v: in_blocks((4, 4), q, k, v, mask, None), q, k, v)
            return out, *pull_back(g)

        hidden = np.array([0, 6, 7, 8, 9])
        poisoned = (x.at[:, :, hidden].set(jnp.nan) for x in (k, v))
        for found, expected in zip(run(*poisoned), run(k, v), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_scaled_dot_product_attention_takes_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without heads, and with a mask that broadcasts over leading axes."""
    for size in ("QUERIES", "KEYS"):
        monkeypatch.setattr(fast.attention, size, 4)
    rng = np.random.default_rng(4)
    mask = jnp.array(rng.random((T, S)) < 0.5)
    for lead in ((), (2, 3)):
        Q, K_, V = (jnp.array(rng.standard_normal((*lead, n, K))) for n in (T, S, S))
        found = jax.jit(partial(attend, mask=mask))(Q, K_, V)
        with fast.used(False):
            expected = attend(Q, K_, V, mask)
        assert relative_error(np.asarray(found), np.asarray(expected)) <= BUDGETS["float64"].forward


def test_blocks_outside_of_a_window_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """With blocks as long as the window, queries meet the keys of their own block and of the block before."""
    met = []
    for_keys = _Blocks.for_keys

    def watched(self: _Blocks, i: Array, meet: Callable[..., Any], state: Any) -> Any:
        def meet_and_note(j: Array, state: Any) -> Any:
            jax.debug.callback(lambda i, j: met.append((int(i), int(j))), i, j, ordered=True)
            return meet(j, state)

        return for_keys(self, i, meet_and_note, state)

    monkeypatch.setattr(_Blocks, "for_keys", watched)
    q, k, v = (jnp.ones((1, 1, 16, K)) for _ in range(3))

    @jax.jit
    def run(q: Array) -> Any:
        out, pull_back = jax.vjp(
            lambda q: attend_in_blocks((4, 4), q[:, :, None], k, v, causal_mask(16, 4), None)[:, :, 0], q
        )
        return pull_back(out)

    jax.block_until_ready(run(q))
    jax.effects_barrier()
    assert met == 2 * [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (3, 2), (3, 3)]


def temporary_bytes(context: int, is_fast: bool = True, **options: Any) -> int:
    """Return the temporary memory that XLA plans for a training step of one narrow layer."""
    config = TrainConfig(ModelConfig(16, context, 16, 1, 2, 16, **options), batch_size=1, fast=is_fast)
    backend = load("jax", config)
    step, state = backend.make_train_step(config), backend.init_state(config, 0)
    return int(compile_step(step, state, random_batch(config)).memory_analysis().temp_size_in_bytes)


def test_a_steps_memory_grows_with_the_context_at_most() -> None:
    """Memory for each token does not grow, as it does by the formula. Blocks weigh more in a short context."""
    cases: list[tuple[list[int], dict[str, Any]]] = [
        ([1024, 8192], {}),
        ([1024, 4096], {"sliding_window": 300, "score_softcap": 5.0}),
    ]
    for contexts, options in cases:
        per_token = np.array([temporary_bytes(T, **options) / T for T in contexts])
        assert (per_token[1:] <= 1.01 * per_token[:-1]).all(), per_token
    with fast.used(True):  # loading a backend turns the switch
        # The formula keeps all scores.
        assert temporary_bytes(1024, False) > 3 * temporary_bytes(1024)
