"""torch in several processes on loopback: the numbers of one, checkpoints that cross, and processes that end."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lm import checkpoint, run
from lm.parity.budgets import RUN, relative_error
from tests.lm.conftest import lm, train_command
from tests.source import ROOT

# Most shapes are divided unevenly, and of d_ff = 9 the last of 4 processes has nothing.
FIFTY = ("--steps", 50, "--eval-interval", 25, "--save-interval", 10, "--optimizer.learning-rate", 5e-3)
FIFTY += ("--batch-size", 8, "--model.vocab-size", 301, "--model.d-ff", 9, "--model.residual-dropout", 0.1)
FLOAT64 = ("--compute-dtype", "float64", "--grad-accumulation", 2)
FLOAT32 = ("--model.tie-embeddings", "--model.remat", "block", "--model.position", "learned")
MINUTE = 60.0


def in_processes(count: int, folder: Path, *commands: Sequence[object]) -> list[tuple[str, str]]:
    """Run commands in so many processes; what each printed."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.lm.mesh_process", folder / "store"],
            cwd=ROOT,
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": str(count)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    for process in processes:
        assert process.stdin
        process.stdin.write(json.dumps([[str(word) for word in command] for command in commands]))
        process.stdin.close()
        process.stdin = None
    try:
        printed = [process.communicate(timeout=5 * MINUTE) for process in processes]
        assert [process.returncode for process in processes] == [0] * count, printed
    finally:
        for process in processes:
            process.kill()
    return printed


def losses(folder: Path) -> np.ndarray:
    """The training loss after each step, and the validation losses."""
    metrics = run.read_metrics(folder)
    return np.array([m.get("train_loss", m.get("val_loss")) for m in metrics])


def saved_until(folder: Path, last: int, new: Path) -> Path:
    """A copy of a run, as it would be had it been killed behind a step."""
    shutil.copytree(folder, new)
    for path in checkpoint.all_of(new):
        if int(path.name[5:]) > last:
            shutil.rmtree(path)
    return new


@pytest.fixture(scope="module")
def whole(made_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of 50 steps, in one process."""
    folder = tmp_path_factory.mktemp("whole")
    for name, flags in (("float64", FLOAT64), ("float32", FLOAT32)):
        assert lm(*train_command(made_pipeline, "torch", folder / name, *FIFTY, *flags)) == 0
    return folder


@pytest.fixture(scope="module")
def four(made_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in four processes."""
    folder = tmp_path_factory.mktemp("four")
    meshes = {"float64": ("data=2,fsdp=2", FLOAT64), "float32": ("fsdp=4", FLOAT32)}
    commands = (
        train_command(made_pipeline, "torch", folder / name, *FIFTY, *flags, "--mesh", mesh)
        for name, (mesh, flags) in meshes.items()
    )
    first, *others = in_processes(4, folder, *commands)
    assert first[0].count("done") == 2
    assert others == [("", "")] * 3
    return folder


def same(folder: Path, whole: Path, name: str) -> None:
    dtype = "float64" if name == "float64" else "float32"
    a, b = losses(folder), losses(whole / name)
    assert len(b) == 52
    assert relative_error(a, b) <= RUN[dtype]


@pytest.mark.parametrize("name", ["float64", "float32"])
def test_four_processes_have_the_numbers_of_one(four: Path, whole: Path, name: str) -> None:
    same(four / name, whole, name)
