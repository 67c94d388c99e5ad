"""Two processes on one folder or file: one makes it, the other is refused in one line."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lm.files import alone_at, alone_in, is_locked
from lm.run import checkpoint
from lm.run.facts import read_facts
from lm.run.metrics import read_metrics
from tests.lm.conftest import lm, refused, snapshot, train_command
from tests.lm.processes import Process, processes
from tests.lm.run.test_train import leaves, numbers
from tests.source import ROOT
from tokenizer import InputError

Capture = pytest.CaptureFixture[str]
ROUNDS = 5


def test_of_two_starts_at_once_one_trains(pipeline: Path, tmp_path: Path) -> None:
    folders = [tmp_path / f"run-{i}" for i in range(ROUNDS)]
    commands = [[str(word) for word in train_command(pipeline, "torch", folder)] for folder in folders]
    started = [Process("tests.lm.race_process", tmp_path, seed, said=json.dumps(commands)) for seed in (0, 1)]
    with processes(*started):
        for process in started:
            assert process.wait().code == 0
    ends = {seed: json.loads((tmp_path / f"ends-{seed}.json").read_bytes()) for seed in (0, 1)}
    for i, folder in enumerate(folders):
        by_code = {ends[seed][i][0]: seed for seed in ends}
        assert set(by_code) == {0, 2}
        winner = by_code[0]
        loser = ends[by_code[2]][i][1].splitlines()
        assert len(loser) == 1
        assert f"lm: {folder}" in loser[0]
        facts = read_facts(folder)
        assert facts is not None
        assert facts["seed"] == winner
        assert {checkpoint.read_state(path)["seed"] for path in checkpoint.find_all(folder)} == {winner}
        steps = [record["step"] for record in read_metrics(folder) if "train_loss" in record]
        assert steps == list(range(1, 7))
        assert not list(folder.rglob(".*"))


def nested(monkeypatch: pytest.MonkeyPatch, target: str, command: list[object]) -> list[int]:
    """Have a command run from its start to its end in the middle of another, after that first called the target.

    Returns:
        The command's exit code, once it has ended.
    """
    module, _, name = target.rpartition(".")
    original = getattr(import_module(module), name)
    codes: list[int] = []

    def act_and_start(*arguments: Any, **options: Any) -> Any:
        result = original(*arguments, **options)
        if not codes:
            codes.append(-1)
            codes[0] = lm(*command)
        return result

    monkeypatch.setattr(import_module(module), name, act_and_start)
    return codes


def test_a_slow_resume_beside_a_fast_one_loses_nothing(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    folder = pipeline / "torch"
    expected, told = leaves(folder), numbers(folder)
    shutil.rmtree(folder / "checkpoints" / "step-00000006")
    command = train_command(pipeline, "torch", folder, "--resume")
    # The slow one has read the state of step 3 when the fast one starts.
    fast = nested(monkeypatch, "lm.run.opening.newest_state", command)
    assert lm(*command) == 0
    assert fast == [2]
    assert f"lm: {folder}: another process is at work in this folder" in capsys.readouterr().err
    assert leaves(folder) == expected
    assert numbers(folder) == told


def test_a_fast_start_within_a_slow_one_is_not_overwritten(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    folder = pipeline / "new"
    command = train_command(pipeline, "torch", folder)
    fast = nested(monkeypatch, "lm.run.opening.load", [*command, "--seed", 7])
    assert lm(*command) == 2
    assert fast == [0]
    assert "new exists already" in capsys.readouterr().err
    facts = read_facts(folder)
    assert facts is not None
    assert facts["seed"] == 7


STORIES: list[object] = ["stories", "--out", "OUT.txt", "--bytes", "500", "--seed"]
PAIRS: list[object] = ["pairs", "reverse", "--out", "OUT.jsonl", "--count", "5", "--seed"]
LEARN: list[object] = ["tokenizer", "train", "--input", "val.txt", "--out", "OUT", "--vocab-size"]
ENCODE: list[object] = ["tokenizer", "encode", "--tokenizer", "tokenizer", "--out", "OUT.npy", "--input"]
# Two commands that write to one place, and what each calls after its first look there.
RIVALS: dict[str, tuple[str, list[object], list[object]]] = {
    "stories": ("lm.corpora.stories.iter_stories", [*STORIES, "1"], [*STORIES, "2"]),
    "pairs": ("lm.corpora.pair_tasks.reversed_words", [*PAIRS, "1"], [*PAIRS, "2"]),
    "tokenizer train": ("tokenizer.train_bpe.train", [*LEARN, "260"], [*LEARN, "261"]),
    "tokenizer encode": ("tokenizer.encode_corpus.share", [*ENCODE, "val.txt"], [*ENCODE, "train.txt"]),
    "export": (
        "lm.interop.export_model.load_facts",
        ["export", "jax", "OUT", "--format", "hf"],
        ["export", "torch", "OUT", "--format", "hf"],
    ),
    "report": (
        "lm.run.report.read_run",
        ["report", "jax", "--out", "OUT"],
        ["report", "torch", "--out", "OUT"],
    ),
}


@pytest.mark.parametrize("name", RIVALS)
def test_of_two_commands_that_write_to_one_place_one_does(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, name: str
) -> None:
    target, slow, fast = RIVALS[name]
    monkeypatch.chdir(pipeline)
    with monkeypatch.context() as patch:
        code = nested(patch, target, fast)
        codes = lm(*slow), code[0]
    assert sorted(codes) == [0, 2]
    assert re.search(
        "^lm: OUT.*(another process is writing it|exists already)", capsys.readouterr().err, re.M
    )
    made = contents(pipeline)
    for path in pipeline.glob("*OUT*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert lm(*(slow if codes[0] == 0 else fast)) == 0
    assert contents(pipeline) == made
    assert not list(pipeline.glob(".*"))


def contents(folder: Path) -> dict[str, bytes]:
    """Return what commands have written to OUT and beside it."""
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if "OUT" in str(p) and p.is_file()}


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("lm.experiment.demo.file_sha256", ["demo", "--out", "OUT", "--input", "val.txt"]),
        ("lm.experiment._check", ["experiment", "no-norm", "--out", "OUT"]),
        ("lm.run.track.refuse_missing", ["track", "torch"]),
    ],
)
def test_commands_of_several_steps_are_alone_in_their_folder(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, target: str, command: list[object]
) -> None:
    monkeypatch.chdir(pipeline)
    folder = pipeline / ("torch" if command[0] == "track" else "OUT")
    before = snapshot(folder)
    with contextlib.ExitStack() as stack:
        module, _, name = target.rpartition(".")
        original = getattr(import_module(module), name)

        def another_starts(*arguments: Any) -> Any:
            stack.enter_context(alone_in(folder))
            return original(*arguments)

        monkeypatch.setattr(import_module(module), name, another_starts)
        assert f"lm: {folder.name}: another process is at work in this folder" in refused(capsys, *command)
    assert snapshot(folder) == before


def test_a_start_that_fails_leaves_nothing_behind(pipeline: Path, capsys: Capture) -> None:
    folder = pipeline / "a" / "new" / "run"
    command = train_command(pipeline, "torch", folder)
    assert "holds no checkpoint" in refused(capsys, *command, "--init-from", pipeline / "tokenizer")
    assert not (pipeline / "a").exists()
    assert "holds no checkpoint" in refused(capsys, *command, "--resume")
    assert not (pipeline / "a").exists()
    # A kill leaves the lock's file, without the lock.
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    assert not is_locked(folder)
    (folder / ".lock").touch()
    assert lm(*command) == 0
    assert not list(folder.rglob(".*"))


def test_a_lock_ends_with_its_process_whatever_that_has_started(tmp_path: Path) -> None:
    script = f"""
import os, pathlib, signal, subprocess, sys
from tokenizer.files.publish import alone_at, alone_in
with alone_in(pathlib.Path({str(tmp_path / "folder")!r})), alone_at(pathlib.Path({str(tmp_path / "file")!r})):
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=0, close_fds=False)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE) as process:  # whose end ends the child
        assert process.wait(timeout=60) == -signal.SIGKILL
        assert (tmp_path / "folder" / ".lock").exists()
        assert not is_locked(tmp_path / "folder")
        with alone_in(tmp_path / "folder"), alone_at(tmp_path / "file"):
            assert is_locked(tmp_path / "folder")
            with (
                pytest.raises(InputError, match="file: another process is writing it"),
                alone_at(tmp_path / "file"),
            ):
                pass
