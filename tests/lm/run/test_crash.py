"""What a crash at any file operation, a full disk, or a read-only disk leaves of a run."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm.run import checkpoint
from lm.run.leaves import save_file
from tests.lm.conftest import lm, refused, train_command
from tests.lm.run.test_checkpoint import OPTIMIZER, WEIGHTS, saved_steps
from tests.lm.run.test_train import leaves

Capture = pytest.CaptureFixture[str]


class Crash(BaseException):
    """Stands for the machine stopping."""


class Machine:
    """A machine that stops at the n-th file operation and does nothing more.

    Python announces every opening, renaming, making and removing of files to audit hooks before it happens. Libraries
    announce nothing, so the test itself tears the writing of tensors in the middle.
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
        """Do some work until the machine stops. Return the number of operations."""
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
    fsync = os.fsync

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
            checkpoint.read_state(path)  # every visible checkpoint is whole
            intact.append(path.name)
        assert intact, f"operation {stop_at} of the save left no checkpoint"
        # The next process, with the same process id, saves and cleans as if nothing had happened.
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
    assert saved_steps(folder) == [3]
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
