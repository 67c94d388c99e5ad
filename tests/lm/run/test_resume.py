"""Resuming a run: what may change, and which checkpoint is taken."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lm.files import alone_in, discard
from lm.run import checkpoint
from lm.run.facts import read_facts
from lm.run.metrics import read_metrics
from tests.lm.conftest import lm, refused, snapshot, train_command
from tests.lm.run.test_checkpoint import remake_manifest, saved_steps
from tests.lm.run.test_train import leaves, numbers
from tests.source import ROOT
from tokenizer import Tokenizer
from torch_impl.fast import product

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--optimizer.learning-rate", 0.01], "optimizer.learning_rate"),
        (["--optimizer.beta2", 0.9], "optimizer.beta2"),
        (["--model.num-heads", 1], "model.num_heads"),
        (["--batch-size", 8], "batch_size"),
        (["--grad-accumulation", 2], "grad_accumulation"),
        (["--seed", 1], "seed"),
        (["--compute-dtype", "bfloat16"], "compute_dtype"),
        (["--steps", 5], "steps"),
        (["--train", "val.npy"], "train_sha256"),
        (["--val", "train.npy"], "val_sha256"),
    ],
)
def test_what_decides_the_numbers_may_not_change(
    pipeline: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, flags: list[object], name: str
) -> None:
    monkeypatch.chdir(pipeline)
    before = snapshot(pipeline)
    command = train_command(pipeline, "torch", pipeline / "torch", "--resume", *flags)
    assert re.search(rf"run\.json: {name} (is|differs)", refused(capsys, *command))
    assert snapshot(pipeline) == before


def test_another_tokenizer_is_refused(pipeline: Path, capsys: Capture) -> None:
    vocabulary = ("--input", pipeline / "val.txt", "--vocab-size", 300, "--out", pipeline / "other")
    assert lm("tokenizer", "train", *vocabulary) == 0
    sha256 = Tokenizer.load(pipeline / "other").sha256
    for name in ("train", "val"):
        sidecar = pipeline / f"{name}.npy.json"
        facts = json.loads(sidecar.read_text())
        sidecar.write_text(json.dumps({**facts, "tokenizer": "other", "tokenizer_sha256": sha256}))
    command = train_command(pipeline, "torch", pipeline / "torch", "--resume")
    assert "tokenizer_sha256 differs" in refused(capsys, *command)


def test_what_does_not_decide_the_numbers_may_change(pipeline: Path) -> None:
    for name in ("train", "val"):
        for suffix in (".npy", ".npy.json"):
            (pipeline / f"{name}{suffix}").rename(pipeline / f"moved-{name}{suffix}")
    moved = ("--train", pipeline / "moved-train.npy", "--val", pipeline / "moved-val.npy")
    flags: tuple[object, ...] = (
        "--steps",
        8,
        "--log-interval",
        2,
        "--eval-interval",
        4,
        "--save-interval",
        1,
        "--threads",
        1,
    )
    flags += ("--keep-last", 2, "--no-fast")
    command = train_command(pipeline, "torch", pipeline / "torch", "--resume", *moved, *flags)
    assert lm(*command) == 0
    assert saved_steps(pipeline / "torch") == [7, 8]
    config = (read_facts(pipeline / "torch") or {})["config"]
    assert config["steps"] == 8
    assert config["fast"] is False
    assert [m["step"] for m in read_metrics(pipeline / "torch")] == [1, 2, 3, 3, 4, 5, 6, 6, 8, 8]


def exchange_optimizer(path: Path) -> None:
    (path / "optimizer.safetensors").write_bytes((path / "model.safetensors").read_bytes())
    remake_manifest(path)


BREAKAGES: dict[str, Callable[[Path], object]] = {
    "model.safetensors": lambda p: (p / "model.safetensors").write_bytes(b"no"),
    "manifest.json": lambda p: (p / "manifest.json").unlink(),
    "state.json": lambda p: (p / "state.json").unlink(),
    "optimizer.safetensors": exchange_optimizer,
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_the_newest_intact_checkpoint_is_taken(pipeline: Path, capsys: Capture, name: str) -> None:
    folder = pipeline / "torch"
    BREAKAGES[name](folder / "checkpoints" / "step-00000006")
    command = train_command(pipeline, "torch", folder, "--resume")
    capsys.readouterr()
    assert lm(*command) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lm: warning: ")]
    assert len(warnings) == 1
    assert f"step-00000006/{name}: " in warnings[0]
    assert warnings[0].endswith("resuming from step-00000003")
    # The broken one is written again, and the run ends as one that was left alone.
    assert checkpoint.latest(folder).name == "step-00000006"
    checkpoint.read_state(checkpoint.latest(folder))
    BREAKAGES[name](folder / "checkpoints" / "step-00000003")
    BREAKAGES[name](folder / "checkpoints" / "step-00000006")
    assert f"step-00000006/{name}: " in refused(capsys, *command)


def test_a_torn_line_of_metrics_is_written_again(pipeline: Path) -> None:
    folder = pipeline / "torch"
    expected = numbers(folder)
    BREAKAGES["manifest.json"](folder / "checkpoints" / "step-00000006")
    metrics = folder / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-9])
    assert lm(*train_command(pipeline, "torch", folder, "--resume")) == 0
    assert numbers(folder) == expected


def test_a_run_that_ended_before_it_saved_starts_again(pipeline: Path) -> None:
    folder, expected = pipeline / "torch", leaves(pipeline / "torch")
    for keep in ({"run.json", "tokenizer", "metrics.jsonl"}, {"run.json"}, set[str]()):
        for path in [p for p in folder.iterdir() if p.name not in keep]:
            discard(path) if path.is_dir() else path.unlink()
        (folder / ".run.json.1.tmp").touch()
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / ".step-00000003.1.tmp").mkdir()
        if not keep:
            (folder / "checkpoints" / ".step-00000003.1.tmp").rmdir()
            (folder / "checkpoints").rmdir()
        assert lm(*train_command(pipeline, "torch", folder, "--resume")) == 0
        assert leaves(folder) == expected
        assert not list(folder.rglob(".*"))


def test_two_processes_do_not_train_the_same_run(pipeline: Path, capsys: Capture) -> None:
    with alone_in(pipeline / "torch"):
        command = train_command(pipeline, "torch", pipeline / "torch", "--resume", "--steps", 7)
        assert "another process is at work in this folder" in refused(capsys, *command)


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_runs_that_are_killed_end_as_one_that_is_not(backend: str) -> None:
    command = [sys.executable, "-m", "tests.torture", "--kills", "3", "--backend", backend]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{backend}: 3 kills" in done.stdout


def test_a_resumed_run_repeats_what_was_measured(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form of a product is chosen by its time. Another form would round differently."""
    chosen = {"many rows": "by_convolution"}
    monkeypatch.setattr(product, "_choices", dict(chosen))
    monkeypatch.setattr(product, "_chosen", {})
    out = pipeline / "chosen"
    assert lm(*train_command(pipeline, "torch", out, "--steps", 2)) == 0
    state = json.loads((checkpoint.latest(out) / "state.json").read_text())
    assert state["choices"] == chosen
    monkeypatch.setattr(product, "_choices", {})
    monkeypatch.setattr(product, "_chosen", {})
    assert lm(*train_command(pipeline, "torch", out, "--steps", 4, "--resume")) == 0
    assert product.choices() == chosen
