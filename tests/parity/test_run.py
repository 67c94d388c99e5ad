"""Tests of what `lm parity` prints, writes and draws."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import parity.run as module
from parity.backends import Evaluate
from parity.layers import LAYERS
from parity.run import PAIRS, as_json, compare, plot, random_cases, run_parity

NAMES = ("silu", "linear", "clip_gradients")


def test_the_table_has_the_worst_of_every_layer_direction_and_pair(
    capsys: pytest.CaptureFixture[str],
) -> None:
    errors = run_parity("float32", cases=4, layers=NAMES, show=True)
    rows = [("silu", "forward"), ("silu", "ULPs"), ("silu", "gradient"), ("linear", "forward")]
    rows += [("linear", "gradient"), ("clip_gradients", "forward")]
    assert [(e.layer, e.direction, e.pair) for e in errors if e.pair == PAIRS[0]] == [
        (*r, PAIRS[0]) for r in rows
    ]
    assert len(errors) == 3 * len(rows)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(rows)
    assert all(" pass " in line and "seed" in line for line in lines[1:])


def test_the_worst_case_can_be_run_again() -> None:
    error = run_parity("float32", cases=4, layers=["linear"])[0]
    again = [
        e for e in compare(error.case, "float32") if (e.direction, e.pair) == (error.direction, error.pair)
    ]
    assert max(e.error for e in again) == error.error


def test_random_cases_take_every_shape_and_depend_on_the_seed() -> None:
    cases = random_cases("linear", 6, seed=0)
    assert {case.shape for case in cases} == set(LAYERS["linear"].shapes)
    assert cases == random_cases("linear", 6, seed=0)
    assert cases != random_cases("linear", 6, seed=1)


@pytest.mark.parametrize("wrong", [1.0, np.nan])
def test_what_is_over_budget_fails(
    wrong: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So does NaN, for which every comparison is false."""
    evaluators = module.evaluators()

    def evaluate(*args: Any) -> Any:
        output, gradients = evaluators["jax"](*args)
        return output + wrong, gradients

    broken: dict[str, Evaluate] = {**evaluators, "jax": evaluate}
    monkeypatch.setattr(module, "evaluators", lambda: broken)
    errors = run_parity("float32", cases=2, layers=["linear"], show=True)
    assert {e.pair for e in errors if not e.passed} == {"jax-oracle", "torch-jax"}
    assert {e.direction for e in errors if not e.passed} == {"forward"}
    assert "FAIL" in capsys.readouterr().out


def test_json_and_picture(tmp_path: Path) -> None:
    errors = run_parity("float32", cases=2, layers=NAMES)
    errors.append(dataclasses.replace(errors[0], error=1.0))
    plot(errors, "float32", tmp_path / "parity.png")
    assert (tmp_path / "parity.png").read_bytes().startswith(b"\x89PNG")
    records = json.loads(json.dumps(as_json(errors)))
    assert records[0]["case"]["layer"] == "silu"
    assert [r["passed"] for r in records] == [True] * (len(records) - 1) + [False]
