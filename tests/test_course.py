"""`python -m tests.course` runs a folder of tests in the course's form with our adapters."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.source import ROOT

CONFTEST = """
import pytest

@pytest.fixture
def features():
    import torch
    return torch.linspace(-2, 2, 12).reshape(3, 4)
"""
OF_2025 = """
import os

import torch
from .adapters import get_adamw_cls, run_rmsnorm, run_train_bpe
from tests.adapters import run_silu
from .common import EXPECTED_BACKEND

def test_silu(features):
    torch.testing.assert_close(run_silu(features), torch.nn.functional.silu(features))

def test_rmsnorm(features):
    ours = run_rmsnorm(d_model=4, eps=1e-5, weights=torch.arange(4.0), in_features=features)
    torch.testing.assert_close(ours, torch.nn.functional.rms_norm(features, (4,), torch.arange(4.0), 1e-5))

def test_backend():
    assert os.environ["LM_BACKEND"] == EXPECTED_BACKEND

def test_that_fails():
    assert get_adamw_cls() is None
"""
OF_2024 = """
import os

import torch
from .adapters import run_gelu, run_positionwise_feedforward, run_softmax

def test_feed_forward(features):
    weights = {"w1.weight": torch.eye(4), "w2.weight": torch.eye(4)}
    gelu = torch.nn.functional.gelu(features)
    torch.testing.assert_close(run_positionwise_feedforward(4, 4, weights, features), gelu)
    torch.testing.assert_close(run_gelu(features), gelu)
    torch.testing.assert_close(run_softmax(features, -1), features.softmax(-1))

def test_backend():
    assert os.environ["LM_BACKEND"] == "torch"

def test_that_fails():
    assert run_gelu is None
"""


def course(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.course", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def write(folder: Path, tests: str) -> Path:
    (folder / "tests").mkdir(parents=True)
    (folder / "tests" / "conftest.py").write_text(CONFTEST)
    (folder / "tests" / "common.py").write_text('EXPECTED_BACKEND = "jax"\n')
    (folder / "tests" / "adapters.py").write_text("def run_silu(x):\n    raise NotImplementedError\n")
    (folder / "tests" / "test_all.py").write_text(tests)
    return folder


def test_the_tests_of_2025_run_unchanged(tmp_path: Path) -> None:
    folder = write(tmp_path, OF_2025)
    before = {path: path.read_bytes() for path in folder.rglob("*.py")}
    done = course(folder, "--backend", "jax", "-q")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 3 passed" in done.stdout
    assert "test_that_fails" in done.stdout
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_tests_of_2024_get_the_adapters_of_2024(tmp_path: Path) -> None:
    """They run in the other backend, too, from the folder of the tests alone, with an argument for pytest."""
    folder = write(tmp_path, OF_2024) / "tests"
    done = course(folder, "--backend", "torch", "-q", "-k", "feed_forward or backend")
    assert (done.returncode, "2 passed, 1 deselected" in done.stdout) == (0, True), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("tests", "message"),
    [(None, "holds no test_"), ("def f(:\n", r"test_all.py:1: is not valid in Python 3")],
)
def test_what_is_refused(tmp_path: Path, tests: str | None, message: str) -> None:
    if tests is not None:
        write(tmp_path, tests)
    done = course(tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
