"""Parity and laws of multi-head self-attention, with and without RoPE and a cache."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given

import jax_impl.attention
import torch_impl.attention
from lm.budgets import Dtype
from parity import oracle
from parity.case import Arrays, Case, Given
from parity.layers import LAYERS
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

PLAIN, ROTARY = "multihead_self_attention", "multihead_self_attention with rope"
GROUPS = "multihead_self_attention of groups"
OWN = "multihead_self_attention with a d_head"


@pytest.mark.parametrize("layer", [PLAIN, ROTARY])
@pytest.mark.parametrize("dtype", DTYPES)
@examples(4)
@given(case=cases(PLAIN))
def test_parity(case: Case, layer: str, dtype: Dtype) -> None:
    assert_parity(Case(layer, case.shape, case.seed, case.scale, case.mask, case.positions), dtype)


@pytest.mark.parametrize("dtype", LAYERS[GROUPS].dtypes)
@examples(4)
@given(case=cases(GROUPS))
def test_parity_of_groups(case: Case, dtype: Dtype) -> None:
    """Query heads share keys; there are biases, and norms of queries and keys."""
    assert_parity(case, dtype)


@pytest.mark.parametrize("dtype", LAYERS[OWN].dtypes)
@examples(2)
@given(case=cases(OWN))
def test_parity_of_heads_with_a_width_of_their_own(case: Case, dtype: Dtype) -> None:
    """One norm covers all heads, its gain is 1 + weight, scores have a cap and their own scale, and output no bias."""
    assert_parity(case, dtype)


def own(T: int = 6) -> Given:
    """Draw two heads of width 6 in a model of width 8, without a cap that acts."""
    given = LAYERS[OWN].draw(np.random.default_rng(3), Case(OWN, (2, T, 8, 2, 2, 6), 3))
    return given._replace(statics=given.statics | {"cap": 1e9, "score_dim": 6.0})


def of_own(given: Given, arrays: Arrays, **statics: float) -> dict[str, np.ndarray]:
    """Return what heads of a width of their own give, by backend and mode."""
    return outputs(OWN, given.arrays | arrays, given.constants, "float64", **given.statics | statics)


def test_scores_are_divided_by_the_root_of_score_dim() -> None:
    """That of d_head changes nothing. A quarter of it doubles the scores, as doubled gains of the queries do."""
    given, name = own(), "q_norm.weight"
    doubled = {name: 1 + 2 * given.arrays[name]}  # The gain is 1 + weight.
    expected = {6.0: of_own(given, {}, score_dim=6.0), 1.5: of_own(given, doubled, score_dim=6.0)}
    alone = LAYERS[OWN].oracle(given)
    for score_dim, by_backend in expected.items():
        for backend, output in of_own(given, {}, score_dim=score_dim).items():
            assert_close(output, by_backend[backend], "float64")
            assert (np.abs(output - alone).max() > 1e-3) == (score_dim != 6.0)


def test_a_norm_over_all_heads_lets_one_head_shrink_another() -> None:
    """With norms of each head by itself, larger queries of head 1 would change nothing in head 0."""
    given = own()
    given.arrays["output_proj.weight"] = np.eye(8, 12)
    larger = given.arrays["q_proj.weight"] * np.repeat([1.0, 5.0], 6)[:, None]
    before = of_own(given, {})
    for backend, output in of_own(given, {"q_proj.weight": larger}).items():
        assert np.abs(output - before[backend])[..., :6].max() > 1e-3


def arrays(T: int = 6, D: int = 8) -> Arrays:
    """Draw an input of batch 2, and weights."""
    weights = {
        f"{name}_proj.weight": normal(i, D, D) / D**0.5 for i, name in enumerate(("q", "k", "v", "output"))
    }
    return {"x": normal(9, 2, T, D)} | weights


def test_is_causal_by_gradient() -> None:
    t, cotangent = 2, np.zeros((2, 6, 8))
    cotangent[:, t] = normal(5, 2, 8)
    constants = {"mask": oracle.causal_mask(6), "positions": np.arange(6)}
    for _, gradients in answers(
        ROTARY, arrays(), constants, cotangent, num_heads=2, d_head=4, theta=1e4
    ).values():
        assert not gradients["x"][:, t + 1 :].any()
        assert gradients["x"][:, : t + 1].all()


def test_heads_are_contiguous_rows_of_the_projections() -> None:
    """If the output projection reads only the first half, only head 0's values reach the output."""
    given = arrays()
    given["output_proj.weight"] = np.eye(8) * (np.arange(8) < 4)
    for output, gradients in answers(PLAIN, given, {"mask": oracle.causal_mask(6)}, num_heads=2).values():
        assert not output[..., 4:].any()
        for name in "qkv":
            assert not gradients[f"{name}_proj.weight"][4:].any()
            assert gradients[f"{name}_proj.weight"][:4].any()


@pytest.mark.parametrize("shift", [1, 1000])
def test_depends_on_position_differences_alone(shift: int) -> None:
    here, there = (
        outputs(
            ROTARY,
            arrays(),
            {"mask": oracle.causal_mask(6), "positions": np.arange(6) + start},
            dtype="float64",
            num_heads=2,
            d_head=4,
            theta=1e4,
        )
        for start in (0, shift)
    )
    for name in here:
        assert_close(here[name], there[name], "float64")


def test_a_cache_changes_nothing() -> None:
    """Token by token with a cache whose slots wrap around, the output is that of the whole sequence at once."""
    given, T, S, heads = arrays(), 6, 6, 2
    constants = {"mask": oracle.causal_mask(T)}
    whole = outputs(PLAIN, given, constants, dtype="float64", num_heads=heads)
    shape, slots = (2, heads, S, 4), (np.arange(T) + 4) % S
    steps: dict[str, list[np.ndarray]] = {"torch": [], "jax": []}

    module = torch_impl.attention.MultiHeadSelfAttention(8, heads, dtype=torch.float64)
    module.load_state_dict({name: torch.tensor(a) for name, a in given.items() if name != "x"})
    torch_cache = torch_impl.attention.LayerCache(torch.zeros(shape).double(), torch.zeros(shape).double())
    params = {name.split(".")[0]: {"weight": jnp.array(a)} for name, a in given.items() if name != "x"}
    jax_cache = jax_impl.attention.LayerCache(jnp.zeros(shape).mT, jnp.zeros(shape))
    seen = np.zeros((1, S), bool)
    for t in range(T):
        seen[0, slots[t]] = True
        x, slot = given["x"][:, t : t + 1], np.full((2, 1), slots[t])
        context = torch_impl.attention.Context(torch.tensor(seen), slots_BT=torch.tensor(slot))
        with torch.no_grad():
            steps["torch"].append(module(torch.tensor(x), context, torch_cache).numpy())
        out, written = jax_impl.attention.multihead_self_attention(
            params,
            jnp.array(x),
            jax_impl.attention.Context(jnp.array(seen), slots_BT=jnp.array(slot)),
            heads,
            jax_cache,
        )
        assert written is not None
        jax_cache = written
        steps["jax"].append(np.asarray(out))
    for name, parts in steps.items():
        assert_close(np.concatenate(parts, 1), whole[name], "float64")
    np.testing.assert_array_equal(torch_cache.k_BHSK[:, :, slots].shape, jax_cache.v_BHSK.shape)
    assert_close(torch_cache.k_BHSK.numpy(), np.asarray(jax_cache.k_BHKS.mT), "float64")
    assert_close(torch_cache.v_BHSK.numpy(), np.asarray(jax_cache.v_BHSK), "float64")
