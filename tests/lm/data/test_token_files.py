"""Token files of other programs: nanoGPT's train.bin and val.bin, and plain .npy that names no tokenizer."""

from pathlib import Path

import numpy as np
import pytest

from lm.run import checkpoint
from lm.run import folder as run
from tests.lm.cli.test_cli import refused, snapshot
from tests.lm.conftest import lm, train_command
from tokenizer import Tokenizer

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def foreign(pipeline: Path) -> Path:
    """The pipeline, its token files also as nanoGPT writes them, and as .npy without a sidecar."""
    for name in ("train", "val"):
        ids = np.load(pipeline / f"{name}.npy")
        ids.astype(np.uint16).tofile(pipeline / f"{name}.bin")
        np.save(pipeline / f"{name}-plain.npy", ids.astype(np.int64))
    return pipeline


def weights(folder: Path) -> bytes:
    return (checkpoint.latest(folder) / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("train", "val"), [("train.bin", "val.bin"), ("train-plain.npy", "val-plain.npy")])
def test_they_train_like_our_own(foreign: Path, capsys: Capture, train: str, val: str) -> None:
    data = ("--train", foreign / train, "--val", foreign / val)
    named = ("--tokenizer", foreign / "tokenizer")
    assert lm(*train_command(foreign, "torch", foreign / "named", *data, *named)) == 0
    assert weights(foreign / "named") == weights(foreign / "torch")
    ours = Tokenizer.load(foreign / "tokenizer")
    assert run.load_tokenizer(foreign / "named").sha256 == ours.sha256
    assert run.load_facts(checkpoint.latest(foreign / "named"))[1]["tokenizer_sha256"] == ours.sha256
    capsys.readouterr()
    losses = []
    for tokens in ("val.npy", val):
        assert lm("eval", "--checkpoint", foreign / "named", "--tokens", foreign / tokens) == 0
        losses.append(capsys.readouterr().out.splitlines()[0])
    assert losses[0] == losses[1]


def test_without_a_name_there_is_no_tokenizer(foreign: Path, capsys: Capture) -> None:
    data = ("--train", foreign / "*.bin", "--val", foreign / "val.bin", "--steps", 1)
    out = foreign / "unnamed"
    assert lm(*train_command(foreign, "jax", out, *data)) == 0
    message = "the tokenizer is missing, since the run's token files name none; train with --tokenizer"
    assert message in refused(capsys, "generate", "--checkpoint", out, "--prompt", "a")
    # A run that has begun without one goes on without one.
    command = train_command(foreign, "jax", out, *data, "--resume", "--tokenizer", foreign / "tokenizer")
    assert "tokenizer_sha256 differs" in refused(capsys, *command)


def test_a_name_may_not_contradict_the_file(foreign: Path, capsys: Capture) -> None:
    Tokenizer({i: bytes([i]) for i in range(256)}, []).save(foreign / "bytes")
    command = train_command(foreign, "torch", foreign / "new", "--tokenizer", foreign / "bytes")
    line = refused(capsys, *command)
    assert f"train.npy: was encoded with another tokenizer than {foreign / 'bytes'}" in line
    command = train_command(foreign, "torch", foreign / "new", "--tokenizer", foreign / "none")
    assert "none" in refused(capsys, *command)
    assert not (foreign / "new").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.bin: not a .npy file of token ids, nor a .bin of them"),
        (b"abc", "x.bin: not a readable .npy file, nor .bin of uint16"),
        (b"ab" * 3, "x.bin: 3 tokens are fewer than one window"),
        (b"\x2b\x01" * 30 + b"\x2c\x01", r"x.bin: token id 300 is outside 0 .. 299"),
    ],
)
def test_broken_bin_files(foreign: Path, capsys: Capture, content: bytes, message: str) -> None:
    (foreign / "x.bin").write_bytes(content)
    before = snapshot(foreign)
    line = refused(capsys, *train_command(foreign, "torch", foreign / "new", "--train", foreign / "x.bin"))
    assert message in line
    assert snapshot(foreign) == before


def test_ids_are_little_endian(foreign: Path) -> None:
    from lm.data.token_files import open_tokens

    (foreign / "x.bin").write_bytes(b"\x01\x00\x02\x01")
    assert open_tokens(foreign / "x.bin", 300, 1).tolist() == [1, 258]
