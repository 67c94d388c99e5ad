"""The smallest failing case is short code that fails as the function does."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lm.budgets import Dtype
from lm.config import ModelConfig
from parity import oracle
from parity.case import Given
from parity.check.answer import Answer
from parity.check.shrink import smallest_case
from tests.check.subjects import BLOCK, MISTAKES, MODEL, RMSNORM, ROPE, SUBJECTS, of_oracle, of_torch


def paste(code: str, **functions: Callable[..., Any]) -> dict[str, Any]:
    """Run the code, and return its variables."""
    space: dict[str, Any] = {"np": np, **functions}
    exec(code, space)
    return space


def run_rope(theta: float, x: np.ndarray, token_positions: np.ndarray) -> np.ndarray:
    return oracle.rope(x, token_positions, theta)


@pytest.mark.parametrize("wrong", ["halves", "positions from 1", "backwards"])
def test_the_code_passes_with_the_right_function_and_fails_with_the_wrong_one(wrong: str) -> None:
    code = smallest_case(ROPE, of_oracle("rope", wrong), "float32")
    right = paste(code, run_rope=run_rope)
    np.testing.assert_allclose(right["actual"], right["expected"], rtol=1e-6)
    with oracle.replaced("rope", MISTAKES[wrong].variant):
        off = paste(code, run_rope=run_rope)
    assert np.abs(off["actual"] - off["expected"]).max() > 1e-3


def test_sizes_are_as_small_as_they_may_be() -> None:
    code = smallest_case(RMSNORM, of_oracle("rmsnorm", "1 + weight"), "float32")
    space = paste(
        code, run_rmsnorm=lambda eps, weights, in_features: oracle.rmsnorm(in_features, weights, eps)
    )
    assert space["x"].shape == (1, 1, 2)
    assert len(code.splitlines()) <= 5
    # One position cannot show halves: the first position is not turned.
    assert paste(smallest_case(ROPE, of_oracle("rope", "halves"), "float32"), run_rope=run_rope)[
        "x"
    ].shape == (2, 4)


@pytest.mark.parametrize("name", list(SUBJECTS))
@pytest.mark.parametrize("wrong", ["halves", "1 + weight", "sigmoid"])
def test_the_code_is_short(name: str, wrong: str) -> None:
    code = smallest_case(SUBJECTS[name], of_oracle(name, wrong), "float32")
    assert len(code.splitlines()) <= 12
    assert all(len(line) <= 120 for line in code.splitlines())
    assert bool(code) == (name in ("transformer_block", "transformer_lm") or MISTAKES[wrong].replaces == name)


def test_many_arrays_come_from_a_generator() -> None:
    code = smallest_case(MODEL, of_oracle("transformer_lm", "1 + weight"), "float32")

    def run_transformer_lm(weights: dict[str, np.ndarray], in_indices: np.ndarray) -> np.ndarray:
        V, D = weights["token_embeddings.weight"].shape
        config = ModelConfig(V, 8, D, 1, 1, d_ff=len(weights["layers.0.ffn.w1.weight"]), rope_theta=1000.0)
        return oracle.transformer_lm(weights, in_indices, config)

    space = paste(code, run_transformer_lm=run_transformer_lm)
    np.testing.assert_allclose(
        space["actual"].ravel()[: space["expected"].size], space["expected"].ravel(), rtol=1e-5
    )


def test_a_wrong_gradient_is_shown_if_the_output_is_right() -> None:
    code = smallest_case(RMSNORM, of_torch(lambda g, a: a["x"].detach() * 0 + rmsnorm(g, a)), "float32")
    assert "with respect to weight" in code
    assert "# It gave: [0.0, 0.0]" in code


def rmsnorm(given: Given, a: dict[str, Any]) -> Any:
    x = a["x"]
    return (
        x / ((x * x).mean(-1, keepdim=True) + given.statics["eps"]).sqrt() * a["weight"].detach()
        + 0 * a["weight"]
    )


def test_a_right_function_has_no_failing_case() -> None:
    assert smallest_case(BLOCK, of_oracle("transformer_block"), "float32") == ""


def test_a_function_that_gives_nothing_has_no_failing_case() -> None:
    def ask(given: Given, cotangent: np.ndarray | None = None, dtype: Dtype = "float32") -> Answer:
        return Answer()

    assert smallest_case(RMSNORM, ask, "float32") == ""
