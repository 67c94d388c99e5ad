"""Unattended training: real processes and disks, signals at bad moments, and what a terminal shows."""

import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lm.data.sources import open_source
from lm.run import checkpoint
from lm.schedule import learning_rate
from tests.lm.conftest import lm, refused, train_command
from tests.lm.processes import Process, processes, wait_for
from tests.lm.run.test_train import leaves, numbers

Capture = pytest.CaptureFixture[str]
LONG = ("--steps", 24, "--eval-interval", 12)


def all_intact(folder: Path) -> int:
    """Verify all checkpoints and return the newest step."""
    steps = [checkpoint.read_state(path)["iteration"] for path in checkpoint.find_all(folder)]
    return int(max(steps))


@pytest.fixture(scope="module")
def whole(made_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run of LONG without interruption."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert lm(*train_command(made_pipeline, "torch", folder, *LONG)) == 0
    return folder


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_disk_fails_in_the_middle_of_a_run(
    pipeline: Path, whole: Path, tmp_path: Path, trouble: str
) -> None:
    disk, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"
    disk.mkdir()
    elsewhere.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting a disk takes root")
    checkpoints, ballast = disk / "run" / "checkpoints", disk / "ballast"
    command = train_command(pipeline, "torch", disk / "run", *LONG, "--save-interval", 1)
    try:
        process = Process("lm", *command)
        with processes(process):
            wait_for(checkpoints / "step-00000003", process)
            if trouble == "full":
                with ballast.open("wb", buffering=0) as file, suppress(OSError):
                    while True:
                        file.write(bytes(2**20))
            else:
                # Remount it read-only at another place, in which no file is being written: here it could be "busy".
                subprocess.run(["mount", "--bind", checkpoints, elsewhere], check=True)
                subprocess.run(["mount", "-o", "remount,ro,bind", elsewhere], check=True)
                subprocess.run(["mount", "--bind", elsewhere, checkpoints], check=True)
            code, _, errors = process.wait()
        assert code == 2, errors
        line = errors.splitlines()[-1]
        reason = "No space left on device|os error 28" if trouble == "full" else "Read-only file system"
        assert re.search(
            rf"^lm: {disk}/run/.* \(.*({reason}).*\); .*checkpoints are intact: .*--resume$", line
        )
        assert "Traceback" not in errors
        assert 3 <= all_intact(disk / "run") < 24
        ballast.unlink(missing_ok=True)
        if trouble == "read-only":
            subprocess.run(["umount", checkpoints], check=True)
        assert lm(*command, "--resume") == 0
        assert leaves(disk / "run") == leaves(whole)
        assert numbers(disk / "run") == numbers(whole)
    finally:
        if elsewhere.is_mount():
            subprocess.run(["umount", "--lazy", elsewhere], check=True)
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_token_file_is_cut_short_in_the_middle_of_a_run(pipeline: Path, whole: Path) -> None:
    folder, tokens = pipeline / "new", pipeline / "train.npy"
    content = tokens.read_bytes()
    command = train_command(pipeline, "torch", folder, *LONG, "--save-interval", 2)
    process = Process("lm", *command)
    with processes(process):
        wait_for(folder / "checkpoints" / "step-00000004", process)
        os.truncate(tokens, 200)
        code, _, errors = process.wait()
    # A bus error, which touching a map of the file would be, would end it by a signal.
    assert code == 2, errors
    line = errors.splitlines()[-1]
    assert line == f"lm: {tokens}: has changed while it was in use; put it back, and resume with --resume"
    assert 4 <= all_intact(folder) < 24
    tokens.write_bytes(content)
    assert lm(*command, "--resume") == 0
    assert leaves(folder) == leaves(whole)
    assert numbers(folder) == numbers(whole)


@pytest.fixture
def before_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], Any]], None]:
    """Do something once in the middle of a run, before a step (counted from 0)."""
    done: set[int] = set()

    def arrange(when: int, act: Callable[[], Any]) -> None:
        def learning_rate_and_act(step: int, *more: Any) -> float:
            if step == when and step not in done:
                done.add(step)
                act()
            return learning_rate(step, *more)

        monkeypatch.setattr("lm.run.train.learning_rate", learning_rate_and_act)

    return arrange


def test_a_validation_file_vanishes(pipeline: Path, capsys: Capture, before_step: Any) -> None:
    tokens, elsewhere = pipeline / "val.npy", pipeline / "elsewhere.npy"
    before_step(4, lambda: tokens.rename(elsewhere))
    command = train_command(pipeline, "torch", pipeline / "new")
    line = refused(capsys, *command)
    assert f"{tokens}: has changed while it was in use; put it back" in line
    assert all_intact(pipeline / "new") == 3
    elsewhere.rename(tokens)
    assert lm(*command, "--resume") == 0
    assert leaves(pipeline / "new") == leaves(pipeline / "torch")


def test_sigterm_while_jax_compiles(pipeline: Path) -> None:
    command = train_command(pipeline, "jax", pipeline / "new")
    process = Process("lm", *command, environment={"JAX_ENABLE_COMPILATION_CACHE": "false"})
    with processes(process):
        wait_for(pipeline / "new" / "metrics.jsonl", process)  # made just before the first step
        process.send_signal(signal.SIGTERM)
        code, said, errors = process.wait()
    assert code == 0, errors
    assert "SIGTERM: will save and end after this step" in errors
    words = shlex.join(map(str, command))
    assert said == f"stopped and saved; to resume: lm {words} --resume\n"
    assert all_intact(pipeline / "new") <= 2
    assert lm(*command, "--resume") == 0
    assert leaves(pipeline / "new") == leaves(pipeline / "jax")


def test_sigterm_while_the_data_are_read(
    pipeline: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_source_and_signal(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return open_source(*arguments)

    command = train_command(pipeline, "torch", pipeline / "new")
    with monkeypatch.context() as patch:
        patch.setattr("lm.run.opening.open_source", open_source_and_signal)
        assert lm(*command) == 0
    assert "stopped and saved" in capsys.readouterr().out
    assert all_intact(pipeline / "new") == 0
    assert lm(*command, "--resume") == 0
    assert leaves(pipeline / "new") == leaves(pipeline / "torch")


def test_an_impatient_person_loses_nothing(
    pipeline: Path, capfd: pytest.CaptureFixture[str], before_step: Any
) -> None:
    def interrupt() -> None:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)

    before_step(4, interrupt)
    command = train_command(pipeline, "torch", pipeline / "new")
    assert lm(*command) == 0
    assert capfd.readouterr().err.count("SIGINT: will save and end after this step") == 1
    assert all_intact(pipeline / "new") == 5
    assert lm(*command, "--resume") == 0
    assert leaves(pipeline / "new") == leaves(pipeline / "torch")


@pytest.mark.parametrize("columns", [200, 80, 40])
def test_the_bar_on_a_terminal(pipeline: Path, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    shown = b""

    def read() -> None:
        nonlocal shown
        while not shown.endswith(b"THE END"):
            shown += os.read(master, 4096)

    reader = threading.Thread(target=read)
    reader.start()
    with open(slave, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        assert lm(*train_command(pipeline, "torch", pipeline / "new", "--peak-flops", 1e12)) == 0
        terminal.write("THE END")
        terminal.flush()
        reader.join()
    os.close(master)
    text = shown.decode()
    # One line, written over and over, ended once.
    assert text.count("\n") == 1
    updates = [line for line in text.split("\n")[0].split("\r") if line]
    assert len(updates) >= 2
    assert max(map(len, updates)) <= columns
    last = updates[-1]
    assert "6/6" in last
    if columns == 200:
        for word in ("loss=", "val=", "gap=", "lr=", "norm=", "tok/s=", "MFU="):
            assert re.search(rf"\b{word}[\d.]+", last)
        assert re.search(r"\d\d:\d\d<\d\d:\d\d", last)
        record = [m for m in numbers(pipeline / "new") if "val_loss" in m][-1]
        facts = json.loads((pipeline / "val.npy.json").read_text())
        gap = record["val_loss"] - facts["nats"] / facts["tokens"]
        assert f"val={record['val_loss']:.3f}, gap={gap:.3f}" in last
    elif columns == 80:
        assert "loss=" in last


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_another_number_of_threads_and_a_device_that_is_not_there(
    pipeline: Path, capsys: Capture, backend: str
) -> None:
    folder = pipeline / backend
    shutil.rmtree(folder / "checkpoints" / "step-00000006")
    command = train_command(pipeline, backend, folder, "--resume", "--threads", 2)
    assert "cuda" in refused(capsys, *command, "--device", "cuda")
    assert all_intact(folder) == 3
    assert lm(*command) == 0
    assert all_intact(folder) == 6
