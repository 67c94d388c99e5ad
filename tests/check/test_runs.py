"""`lm check --runs`: where two training runs part, and whether rounding explains it."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm.config import ModelConfig, OptimizerConfig
from parity.check.runs import RunsVerdict, lines, run_runs
from tests.lm.conftest import lm
from tests.lm.interop.models import make_run, random_weights

MODEL = ModelConfig(vocab_size=29, context_length=8, d_model=16, num_layers=2, num_heads=4, d_ff=20)
Capture = pytest.CaptureFixture[str]


def write(folder: Path, change: Callable[[int], float], of: str = "both", **settings: Any) -> Path:
    """Write a run of 40 steps whose numbers are off by a relative `change` of the step."""
    make_run(folder, MODEL, None, **settings)
    records = []
    for step in range(1, 41):
        loss, norm = (
            value * (1 + (change(step) if of in ("both", name) else 0))
            for name, value in (("train_loss", 3 / step), ("grad_norm", 2.0))
        )
        # A record of training has null for what is not finite.
        record = {"train_loss": loss, "grad_norm": norm}
        finite = {name: value if math.isfinite(value) else None for name, value in record.items()}
        records.append({"step": step, "tokens": step, "seconds": step, **finite})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def check(tmp_path: Path, change: Callable[[int], float], of: str = "both", **settings: Any) -> RunsVerdict:
    return run_runs(write(tmp_path / "a", change, of, **settings), write(tmp_path / "b", lambda step: 0.0))


def test_runs_within_one_steps_rounding_stay_together(tmp_path: Path) -> None:
    verdict = check(tmp_path, lambda step: 1e-7)
    assert verdict.parted is None
    assert not verdict.is_off
    assert lines(verdict)[-1].startswith("pass: the runs stay together")


def test_a_difference_that_doubles_in_each_step_is_explained_by_rounding(tmp_path: Path) -> None:
    verdict = check(tmp_path, lambda step: min(1e-8 * 2.0**step, 0.5))
    assert verdict.parted is not None
    assert verdict.rounding_explains
    assert "rounding explains it" in lines(verdict)[-1]


@pytest.mark.parametrize(
    ("change", "of", "step", "told"),
    [
        (lambda step: 1e-3, "both", 1, "the weights, the batch and the forward pass"),
        (lambda step: 1e-3, "grad_norm", 1, "the backward pass"),
        (
            lambda step: 1e-2 if step > 4 else 1e-8,
            "both",
            5,
            "the optimizer, the learning rate, and the batch",
        ),
    ],
    ids=["first loss", "gradient norm", "abrupt"],
)
def test_an_abrupt_difference_is_off(
    tmp_path: Path, change: Callable[[int], float], of: str, step: int, told: str
) -> None:
    verdict = check(tmp_path, change, of)
    assert verdict.is_off
    assert verdict.parted is not None
    assert verdict.parted.step == step
    assert told in lines(verdict)[-1]


def test_a_loss_that_is_not_a_number_parts_the_runs(tmp_path: Path) -> None:
    verdict = check(tmp_path, lambda step: float("inf") if step == 3 else 0.0)
    assert verdict.is_off
    assert verdict.parted is not None
    assert verdict.parted.step == 3


def test_settings_that_decide_the_numbers_are_named(tmp_path: Path) -> None:
    verdict = check(tmp_path, lambda step: 1e-2, optimizer=OptimizerConfig(2e-3, 1e-5), log_interval=7)
    assert any(setting.startswith("optimizer.learning_rate: 0.002 and ") for setting in verdict.settings)
    assert not any("log_interval" in setting for setting in verdict.settings)
    assert "different settings" in lines(verdict)[-1]


def test_the_first_leaf_that_differs_is_named(tmp_path: Path) -> None:
    a, b = (write(tmp_path / name, lambda step: 0.0) for name in "ab")
    weights = random_weights(MODEL)
    assert run_runs(a, b).leaf is not None
    for name in ("layers.0.ffn.w1.weight", "lm_head.weight"):
        weights[name] = weights[name] * np.float32(1.01 if "ffn" in name else 2)
    make_run(tmp_path / "c", MODEL, None, weights)
    (tmp_path / "c" / "metrics.jsonl").write_bytes((a / "metrics.jsonl").read_bytes())
    leaf = run_runs(tmp_path / "c", b).leaf
    assert leaf is not None
    assert (leaf.name, leaf.step, leaf.worst_name) == ("layers.0.ffn.w1.weight", 7, "lm_head.weight")
    assert (leaf.error, leaf.worst) == pytest.approx((0.01, 1.0), rel=1e-3)


def test_the_command_writes_a_picture_and_json(tmp_path: Path, capsys: Capture) -> None:
    a, b = write(tmp_path / "a", lambda step: 1e-3 * step), write(tmp_path / "b", lambda step: 0.0)
    png, facts = tmp_path / "runs.png", tmp_path / "runs.json"
    with pytest.raises(SystemExit) as exit:
        lm("check", "--runs", a, b, "--png", png, "--json", facts)
    assert exit.value.code == 1
    assert "OFF: rounding does not explain it" in capsys.readouterr().out
    assert png.read_bytes().startswith(b"\x89PNG")
    written = json.loads(facts.read_text())
    assert (written["status"], written["first_step"], len(written["steps"])) == ("off", 1, 40)
    with pytest.raises(SystemExit) as exit:
        lm("check", "--runs", a, a)
    assert exit.value.code == 0


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: Capture) -> None:
    run = write(tmp_path / "a", lambda step: 0.0)
    assert lm("check", "--runs", run, tmp_path) == 2
    assert "has no metrics.jsonl with training steps" in capsys.readouterr().err
