"""Packed documents: every document of a window is computed as if it stood alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.budgets import BUDGETS, Dtype, relative_error
from parity import oracle
from parity.case import Case
from parity.draws import DRAW, model_weights
from tests.parity.support import answers, assert_close, assert_parity, examples, variant
from tests.parity.test_family import model

PACKED, B, T = "transformer_lm of documents", 2, 6
SHAPE = (B, 7, 1, 4, 4, 12, 11)
POSITIONS = ("rope", "learned")
ROWS = np.arange(B, dtype=np.int32)

starts_of_rows = st.lists(st.sets(st.integers(1, T - 1)), min_size=B, max_size=B).map(
    lambda rows: np.array([[max(s for s in (0, *row) if s <= t) for t in range(T)] for row in rows], np.int32)
)


@pytest.mark.parametrize(
    ("dtype", "number"),
    [
        ("float64", variant(position="rope", attention_dropout=0.3, sliding_window=3)),
        ("float64", variant(position="learned", remat="none")),
        ("float32", variant(position="sinusoidal", remat="none")),
    ],
)
def test_parity(dtype: Dtype, number: int) -> None:
    """With dropout, whose masks do not depend on documents."""
    assert_parity(Case(PACKED, SHAPE, number), dtype)


def one_by_one(starts: np.ndarray, *arrays: np.ndarray) -> list[np.ndarray]:
    """Return arrays (B, T, ...) with a row for each place: a row's document at its start, and zeros."""
    apart = [np.zeros((B * T, *a.shape[1:]), a.dtype) for a in arrays]
    for b, start in np.argwhere(starts == np.arange(T)):
        document = np.flatnonzero(starts[b] == start)
        for one, a in zip(apart, arrays, strict=True):
            one[b * T + start, : len(document)] = a[b, document]
    return apart


def together(starts: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Undo `one_by_one`."""
    rows = np.arange(B)[:, None] * T + starts
    return apart[rows, np.arange(T) - starts]


def draw(seed: int, position: str) -> tuple[Any, dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Draw a model without dropout, its weights, token ids, and a cotangent of the logits."""
    config, rng = model({"position": position}, layers=1), np.random.default_rng(seed)
    return config, model_weights(rng, config), rng.integers(0, 11, (B, T)), rng.standard_normal((B, T, 11))


def packed(config: Any, weights: Any, ids: np.ndarray, starts: np.ndarray, cotangent: np.ndarray) -> Any:
    """Return logits and gradients of a window by backend and mode."""
    constants = {"token_ids": ids, "starts": starts, "rows": ROWS}
    return answers(PACKED, weights, constants, cotangent, "float64", config=config, **DRAW)


@pytest.mark.parametrize("position", POSITIONS)
@examples(4)
@given(st.integers(0, 2**32 - 1), starts_of_rows)
def test_a_window_is_its_documents_one_by_one(position: str, seed: int, starts: np.ndarray) -> None:
    """Logits, and so losses, and the gradients with respect to every weight."""
    config, weights, ids, cotangent = draw(seed, position)
    ids_apart, cotangent_apart = one_by_one(starts, ids, cotangent)
    found = packed(config, weights, ids, starts, cotangent)
    alone = answers(
        "transformer_lm", weights, {"token_ids": ids_apart}, cotangent_apart, "float64", config=config
    )
    exact = together(starts, oracle.transformer_lm(weights, ids_apart, config))
    flow = float(np.linalg.norm(cotangent))
    for mode, (logits, gradients) in found.items():
        assert_close(logits, exact, "float64", "model_forward")
        assert_close(logits, together(starts, alone[mode][0]), "float64", "model_forward")
        for name, gradient in gradients.items():
            error = relative_error(gradient, alone[mode][1][name], flow)
            assert error <= BUDGETS["float64"].model_gradient, (mode, name)


@pytest.mark.parametrize("position", POSITIONS)
@examples(4)
@given(st.integers(0, 2**32 - 1), starts_of_rows.filter(lambda starts: bool(starts.any())), st.data())
def test_a_document_changes_no_bit_of_another(
    position: str, seed: int, starts: np.ndarray, data: st.DataObject
) -> None:
    """Neither its logits nor its share of the gradients."""
    config, weights, ids, cotangent = draw(seed, position)
    b, start = data.draw(st.sampled_from([(b, s) for b in range(B) for s in set(starts[b].tolist())]))
    is_changed = (np.arange(B)[:, None] == b) & (starts == start)
    # The others' share of the gradients is the gradient of their logits.
    cotangent = np.where(is_changed[..., None], 0.0, cotangent)
    before = packed(config, weights, ids, starts, cotangent)
    after = packed(config, weights, np.where(is_changed, (ids + 1) % 11, ids), starts, cotangent)
    for mode, (logits, gradients) in before.items():
        np.testing.assert_array_equal(logits[~is_changed], after[mode][0][~is_changed], err_msg=mode)
        assert not np.array_equal(logits, after[mode][0])
        for name, gradient in gradients.items():
            np.testing.assert_array_equal(gradient, after[mode][1][name], err_msg=f"{mode} {name}")
