"""Token files, our own and those of other programs."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from lm.data.token_files import fingerprint, open_tokens
from lm.data.windows import eval_batches, get_batch, open_corpus
from lm.run import checkpoint
from lm.run.facts import load_facts
from lm.run.loading import load_tokenizer
from tests.lm.conftest import lm, refused, snapshot, train_command
from tests.lm.data.test_windows import TOKENS, write_marked
from tokenizer import InputError, Tokenizer

Capture = pytest.CaptureFixture[str]


def test_open_tokens_maps_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens.npy"
    np.save(path, TOKENS)
    tokens = open_tokens(path, 50, 999)
    assert isinstance(tokens, np.memmap)
    np.testing.assert_array_equal(tokens, TOKENS)
    with pytest.raises(InputError, match="fewer than one window"):
        open_tokens(path, 50, 1000)
    with pytest.raises(InputError, match=r"tokens.npy: token id 49 is outside 0 .. 48; encode"):
        open_tokens(path, 49, 16)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4), np.uint16), np.zeros(40, np.float32), np.array([{}] * 40)],
    ids=["two-dimensional", "float", "object"],
)
def test_arrays_of_other_kinds_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "tokens.npy"
    np.save(path, array, allow_pickle=True)
    with pytest.raises(InputError, match=r"tokens\.npy: not a .*\.npy file.*lm tokenizer encode"):
        open_tokens(path, 50, 8)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens.npy"
    for content in (b"", b"text", b"\x93NUMPY\x01\x00junk", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a"):
            open_tokens(path, 50, 8)
    np.save(path, TOKENS)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a readable"):
        open_tokens(path, 50, 8)


@pytest.mark.parametrize("what", ["gone", "cut short", "another", "unreadable"])
def test_a_file_that_changes_during_use_is_refused(tmp_path: Path, what: str) -> None:
    path = write_marked(tmp_path, "a.npy", 0, 100_000)
    tokens = open_tokens(path, 50, 8)
    get_batch(tokens, 0, 0, 2, 8)
    match what:
        case "gone":
            path.unlink()
        case "cut short":
            os.truncate(path, 500)  # from here on, touching the map beyond its first page is a bus error
        case "another":
            write_marked(tmp_path, "b.npy", 0, 100_001).rename(path)
        case "unreadable":
            path.unlink()
            path.mkdir()
    for use in (
        lambda: get_batch(tokens, 0, 0, 2, 8),
        lambda: list(eval_batches(tokens, 2, 8)),
        lambda: list(eval_batches(tokens[50_000:], 2, 8)),
    ):
        with pytest.raises(InputError, match=r"a\.npy: has changed while it was in use; put it back"):
            use()


def test_parts_of_a_memory_map_equal_those_of_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", TOKENS)
    tokens = open_tokens(tmp_path / "tokens.npy", 50, 8)
    for part in (slice(None), slice(0, 100), slice(3, 700), slice(500, None)):
        for mapped, array in zip(
            eval_batches(tokens[part], 3, 8), eval_batches(TOKENS[part], 3, 8), strict=True
        ):
            np.testing.assert_array_equal(mapped.inputs, array.inputs)
            np.testing.assert_array_equal(mapped.targets, array.targets)
            np.testing.assert_array_equal(mapped.loss_mask, array.loss_mask)
        batches = [get_batch(t[part], 0, 0, 4, 8) for t in (tokens, TOKENS)]
        np.testing.assert_array_equal(batches[0].inputs, batches[1].inputs)


def resident_bytes() -> int:
    """Return the bytes of this process's memory, including mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_file_of_40_gb_takes_little_memory_and_time(tmp_path: Path) -> None:
    path = write_marked(tmp_path, "huge.npy", 0, 10)
    size = 20_000_000_000
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<u2", "fortran_order": False, "shape": (size,)})
        offset = file.tell()
        file.truncate(offset + 2 * size)
    before, start = resident_bytes(), time.perf_counter()
    first = fingerprint(path)
    corpus, _ = open_corpus([path], (), 50, 256)
    for step in range(1000):
        batch = get_batch(corpus, 0, step, 32, 256)
    assert not batch.inputs.any()
    assert resident_bytes() - before < 50_000_000
    assert time.perf_counter() - start < 20
    # A change at either end changes the fingerprint, and an id out of range is found there.
    for position in (0, size - 1):
        with path.open("r+b") as file:
            file.seek(offset + 2 * position)
            file.write(b"\x40\x00")
        assert fingerprint(path) != first
        with pytest.raises(InputError, match="token id 64 is outside"):
            open_tokens(path, 50, 256)
        with path.open("r+b") as file:
            file.seek(offset + 2 * position)
            file.write(b"\x00\x00")
    assert fingerprint(path) == first


# Token files of other programs: nanoGPT's train.bin and val.bin, and .npy without a sidecar.


@pytest.fixture
def foreign(pipeline: Path) -> Path:
    """The pipeline, with its token files also in nanoGPT's format, and as .npy without a sidecar."""
    for name in ("train", "val"):
        ids = np.load(pipeline / f"{name}.npy")
        ids.astype(np.uint16).tofile(pipeline / f"{name}.bin")
        np.save(pipeline / f"{name}-plain.npy", ids.astype(np.int64))
    return pipeline


def read_weights(folder: Path) -> bytes:
    return (checkpoint.latest(folder) / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("train", "val"), [("train.bin", "val.bin"), ("train-plain.npy", "val-plain.npy")])
def test_token_files_of_other_programs_train_as_ours_do(
    foreign: Path, capsys: Capture, train: str, val: str
) -> None:
    data = ("--train", foreign / train, "--val", foreign / val)
    named = ("--tokenizer", foreign / "tokenizer")
    assert lm(*train_command(foreign, "torch", foreign / "named", *data, *named)) == 0
    assert read_weights(foreign / "named") == read_weights(foreign / "torch")
    ours = Tokenizer.load(foreign / "tokenizer")
    assert load_tokenizer(foreign / "named").sha256 == ours.sha256
    assert load_facts(checkpoint.latest(foreign / "named"))[1]["tokenizer_sha256"] == ours.sha256
    capsys.readouterr()
    losses = []
    for tokens in ("val.npy", val):
        assert lm("eval", "--checkpoint", foreign / "named", "--tokens", foreign / tokens) == 0
        losses.append(capsys.readouterr().out.splitlines()[0])
    assert losses[0] == losses[1]


def test_token_files_without_a_sidecar_name_no_tokenizer(foreign: Path, capsys: Capture) -> None:
    data = ("--train", foreign / "*.bin", "--val", foreign / "val.bin", "--steps", 1)
    out = foreign / "unnamed"
    assert lm(*train_command(foreign, "jax", out, *data)) == 0
    message = "the tokenizer is missing, since the run's token files name none; train with --tokenizer"
    assert message in refused(capsys, "generate", "--checkpoint", out, "--prompt", "a")
    # A run that began without a tokenizer resumes without one.
    command = train_command(foreign, "jax", out, *data, "--resume", "--tokenizer", foreign / "tokenizer")
    assert "tokenizer_sha256 differs" in refused(capsys, *command)


def test_a_given_tokenizer_must_be_the_one_that_the_file_names(foreign: Path, capsys: Capture) -> None:
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
def test_broken_bin_files_are_refused(foreign: Path, capsys: Capture, content: bytes, message: str) -> None:
    (foreign / "x.bin").write_bytes(content)
    before = snapshot(foreign)
    line = refused(capsys, *train_command(foreign, "torch", foreign / "new", "--train", foreign / "x.bin"))
    assert message in line
    assert snapshot(foreign) == before


def test_ids_in_bin_files_are_little_endian(foreign: Path) -> None:
    (foreign / "x.bin").write_bytes(b"\x01\x00\x02\x01")
    assert open_tokens(foreign / "x.bin", 300, 1).tolist() == [1, 258]
