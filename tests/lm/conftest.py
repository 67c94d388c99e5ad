"""The command in this process, and a small pipeline that it makes once: text, tokenizer, token files, config, runs."""

import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import jaxtyping
import pytest

from lm.cli import main
from lm.files import file_sha256

CONFIG = """
steps = 6
batch_size = 4
log_interval = 1
eval_interval = 3
save_interval = 3

[model]
vocab_size = 300
context_length = 16
d_model = 16
num_layers = 2
num_heads = 2

[optimizer]
learning_rate = 5e-2
warmup_steps = 2
"""


def lm(*arguments: object) -> int:
    """Run the command in this process as users run it: nothing checks shapes, which takes longer than a tiny step."""
    with mock.patch.object(jaxtyping.config, "jaxtyping_disable", True):
        return main([str(argument) for argument in arguments])


def train_command(pipeline: Path, backend: str, out: Path, *more: object) -> list[object]:
    """Return the command that trains on the pipeline's files, or on the files in `more`."""
    data: list[object] = [] if "--train" in more else ["--train", pipeline / "train.npy"]
    data += ["--val", pipeline / "val.npy"]
    return ["train", "--backend", backend, "--config", pipeline / "tiny.toml", *data, "--out", out, *more]


def refused(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    """The one line that refuses a command."""
    capsys.readouterr()
    assert lm(*command) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    # A progress bar may have come before; it ends in a carriage return or a new line.
    line = re.split(r"[\r\n]", printed.err.rstrip("\n"))[-1]
    assert line.startswith("lm: ")
    assert "Traceback" not in printed.err
    return line


def snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """Time and hash of every file below a folder, to see that nothing has changed."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, file_sha256(p)) for p in files}


@pytest.fixture(scope="session")
def made_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the pipeline and return its folder. Tests must not change it."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "tiny.toml").write_text(CONFIG)
    for name, size, seed in (("train", 30_000, 1), ("val", 3_000, 2)):
        assert lm("stories", "--out", folder / f"{name}.txt", "--bytes", size, "--seed", seed) == 0
    vocabulary = ("--vocab-size", 300, "--out", folder / "tokenizer")
    assert lm("tokenizer", "train", "--input", folder / "train.txt", *vocabulary) == 0
    for name in ("train", "val"):
        files = ("--input", folder / f"{name}.txt", "--out", folder / f"{name}.npy")
        assert lm("tokenizer", "encode", "--tokenizer", folder / "tokenizer", *files) == 0
    for backend in ("torch", "jax"):
        # With shapes checked, once.
        assert main([str(word) for word in train_command(folder, backend, folder / backend)]) == 0
    return folder


@pytest.fixture
def pipeline(made_pipeline: Path, tmp_path: Path) -> Path:
    """Return a copy of the pipeline's folder that a test may change."""
    return shutil.copytree(made_pipeline, tmp_path / "pipeline")


@pytest.fixture
def hangup_is_noticed() -> Iterator[None]:
    """Let SIGHUP arrive, even if the tests were started with nohup, which has it ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL) if hasattr(signal, "SIGHUP") else None
    yield
    if before is not None:
        signal.signal(signal.SIGHUP, before)
