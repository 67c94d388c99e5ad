"""Going on with a run: what may change, which checkpoint is taken, and what a crash or a full disk leaves."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm.files import alone_in
from lm.run import checkpoint
from lm.run.facts import read_facts
from lm.run.metrics import read_metrics
from tests.lm.conftest import lm, refused, snapshot, train_command
from tests.lm.run.test_checkpoint import OPTIMIZER, WEIGHTS, remake_manifest
from tests.lm.run.test_train import leaves, numbers
from tests.source import ROOT
from tokenizer import Tokenizer
from torch_impl.fast import product

Capture = pytest.CaptureFixture[str]


def steps(folder: Path) -> list[int]:
    return sorted(int(p.name[5:]) for p in (folder / "checkpoints").glob("step-*"))


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


def test_what_does_not_decide_them_may(pipeline: Path) -> None:
    for name in ("train", "val"):
        for suffix in (".npy", ".npy.json"):
            (pipeline / f"{name}{suffix}").rename(pipeline / f"moved-{name}{suffix}")
    moved = ("--train", pipeline / "moved-train.npy", "--val", pipeline / "moved-val.npy")
    flags = ("--steps", 8, "--log-interval", 2, "--eval-interval", 4, "--save-interval", 1, "--threads", 1)
    flags += ("--keep-last", 2, "--no-fast")
    command = train_command(pipeline, "torch", pipeline / "torch", "--resume", *moved, *flags)
    assert lm(*command) == 0
    assert steps(pipeline / "torch") == [7, 8]
    config = read_facts(pipeline / "torch")["config"]
    assert config["steps"] == 8
    assert config["fast"] is False
    assert [m["step"] for m in read_metrics(pipeline / "torch")] == [1, 2, 3, 3, 4, 5, 6, 6, 8, 8]


BREAKAGES: dict[str, Callable[[Path], object]] = {
    "model.safetensors": lambda p: (p / "model.safetensors").write_bytes(b"no"),
    "manifest.json": lambda p: (p / "manifest.json").unlink(),
    "state.json": lambda p: (p / "state.json").unlink(),
    "optimizer.safetensors": lambda p: (
        (p / "optimizer.safetensors").write_bytes((p / "model.safetensors").read_bytes())
        and remake_manifest(p)
    ),
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
            checkpoint.discard(path) if path.is_dir() else path.unlink()
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


def test_best_checkpoints_are_kept(tmp_path: Path) -> None:
    for step, loss in ((1, 5.0), (2, 3.0), (3, 4.0), (4, None), (5, 6.0), (6, float("nan"))):
        facts = {"val_loss": loss}
        if loss == loss:
            checkpoint.save(tmp_path / "checkpoints", step, WEIGHTS.items(), OPTIMIZER.items(), facts)
    assert checkpoint.best(tmp_path).name == "step-00000002"
    assert [checkpoint.is_among_best(tmp_path, loss, 2) for loss in (2.0, 3.5, 4.0, 9.0)] == [1, 1, 0, 0]
    assert not checkpoint.is_among_best(tmp_path, 0.0, 0)
    checkpoint.prune(tmp_path, None, 0)
    assert steps(tmp_path) == [1, 2, 3, 4, 5]
    checkpoint.prune(tmp_path, 2, 2)
    assert steps(tmp_path) == [2, 3, 4, 5]
    checkpoint.prune(tmp_path, 1, 0)
    assert steps(tmp_path) == [5]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]


def test_of_equal_losses_the_oldest_is_best(tmp_path: Path) -> None:
    """One is saved as the best only if it beats the last of them, so that a tie must not delete what was saved."""
    for step in (1, 2, 3, 10):
        assert checkpoint.is_among_best(tmp_path, 3.0, 1) == (step == 1)
        facts = {"val_loss": 3.0}
        checkpoint.save(tmp_path / "checkpoints", step, WEIGHTS.items(), OPTIMIZER.items(), facts)
    assert checkpoint.best(tmp_path).name == "step-00000001"
    checkpoint.prune(tmp_path, 1, 2)
    assert steps(tmp_path) == [1, 2, 10]
    checkpoint.prune(tmp_path, 1, 1)
    assert steps(tmp_path) == [1, 10]


class Crash(BaseException):
    """The machine stops here."""


class Machine:
    """Stops at the n-th file operation, and does nothing more from then on.

    Python announces every opening, renaming, making and removing of files to audit hooks before it is done; of what
    happens inside a library, the writing of tensors is torn in the middle by hand.
    """

    def __init__(self) -> None:
        self.operations = 0
        self.stop_at: int | None = None
        self.running = False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        names = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}
        if self.running and event in names and "site-packages" not in str(arguments[0]):
            self.operation()

    def operation(self) -> None:
        self.operations += 1
        if self.stop_at is not None and self.operations >= self.stop_at:
            raise Crash

    def run(self, stop_at: int | None, work: Callable[[], object]) -> int:
        """Do some work until the stop, and return the number of operations."""
        self.operations, self.stop_at, self.running = 0, stop_at, True
        try:
            work()
        except Crash:
            pass
        finally:
            self.running = False
        return self.operations


@pytest.fixture(scope="session")
def machine() -> Machine:
    return Machine()


@pytest.mark.parametrize("again", [False, True], ids=["a new step", "a broken one again"])
def test_a_crash_at_any_file_operation_of_a_save(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    save_file, fsync = checkpoint.save_file, os.fsync

    def torn_save_file(tensors: dict[str, np.ndarray], path: Path) -> None:
        save_file(tensors, path)
        if machine.running:
            os.truncate(path, path.stat().st_size // 2)
            machine.operation()
            save_file(tensors, path)

    def counted_fsync(descriptor: int) -> None:
        if machine.running:
            machine.operation()
        fsync(descriptor)

    monkeypatch.setattr(checkpoint, "save_file", torn_save_file)
    monkeypatch.setattr(os, "fsync", counted_fsync)

    def save(folder: Path, step: int) -> None:
        checkpoint.save(
            folder / "checkpoints", step, WEIGHTS.items(), OPTIMIZER.items(), {"val_loss": 1.0 / step}
        )
        checkpoint.prune(folder, 1, 1)

    stop_at, total = 1, None
    while total is None or stop_at <= total:
        folder = tmp_path / str(stop_at)
        save(folder, 2)
        if again:
            save(folder, 3)
            checkpoint.save(folder / "checkpoints", 2, WEIGHTS.items(), OPTIMIZER.items(), {})
            (folder / "checkpoints" / "step-00000003" / "state.json").write_text("broken")
        count = machine.run(stop_at, lambda folder=folder: save(folder, 3))  # type: ignore[misc]
        total = count if count < stop_at else None
        intact = []
        for path in checkpoint.find_all(folder):
            if again and path.name == "step-00000003" and (path / "state.json").read_text() == "broken":
                continue
            checkpoint.read_state(path)  # whatever is seen is whole
            intact.append(path.name)
        assert intact, f"operation {stop_at} of the save left no checkpoint"
        # The next process, with the same number, saves and cleans as if nothing had been.
        save(folder, 4)
        assert checkpoint.latest(folder).name == "step-00000004"
        assert not list((folder / "checkpoints").glob(".step-00000004*"))
        stop_at += 1
    assert stop_at > 25, "the operations of a save were not seen"


@pytest.mark.parametrize("target", ["checkpoints", "metrics.jsonl"])
def test_a_disk_that_fills_up_leaves_the_last_checkpoint(
    pipeline: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    expected = leaves(pipeline / "torch")
    folder = pipeline / "new"
    real = os.fsync
    count = 0

    def full(descriptor: int) -> None:
        nonlocal count
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        count += target in name
        if target in name and count > (8 if target == "checkpoints" else 2):
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    line = refused(capsys, *train_command(pipeline, "torch", folder))
    assert re.search(r"cannot be (saved|written) \(No space left on device\); .*checkpoints are intact", line)
    assert str(folder) in line
    assert steps(folder) == [3]
    assert not list((folder / "checkpoints").glob(".*"))
    monkeypatch.setattr(os, "fsync", real)
    assert lm(*train_command(pipeline, "torch", folder, "--resume")) == 0
    assert leaves(folder) == expected


@pytest.mark.parametrize("option", ["size=1m", "size=300k"])
def test_a_small_disk_and_a_read_only_one(
    pipeline: Path, capsys: Capture, tmp_path: Path, option: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a disk takes root")
    try:
        command = train_command(pipeline, "torch", disk / "run", "--save-interval", 1)
        if option == "size=1m":
            assert lm(*command, "--keep-last", 1) == 0
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            line = refused(capsys, *command, "--resume", "--steps", 8)
            assert "Read-only file system" in line
        else:
            line = refused(capsys, *command)
            assert "No space left on device" in line or "os error 28" in line
        assert str(disk) in line
        path = checkpoint.latest(disk / "run")
        assert lm("eval", "--checkpoint", path, "--tokens", pipeline / "val.npy") == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_runs_that_are_killed_end_as_one_that_is_not(backend: str) -> None:
    command = [sys.executable, "-m", "tests.torture", "--kills", "3", "--backend", backend]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{backend}: 3 kills" in done.stdout


def test_a_resumed_run_repeats_what_was_measured(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form of a product is chosen by its time. Another choice would round in another way."""
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
