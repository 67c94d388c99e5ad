"""`lm tokenizer`: train, encode, inspect, export and import."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.lm.conftest import lm, refused, snapshot
from tokenizer import Tokenizer

Capture = pytest.CaptureFixture[str]


def test_sidecars_record_where_a_token_file_comes_from(made_pipeline: Path) -> None:
    text = json.loads((made_pipeline / "val.txt.json").read_text())
    tokens = json.loads((made_pipeline / "val.npy.json").read_text())
    assert tokens["tokens"] == len(np.load(made_pipeline / "val.npy"))
    assert tokens["bytes"] == text["bytes"] == (made_pipeline / "val.txt").stat().st_size
    assert tokens["nats"] == text["nats"]
    assert (made_pipeline / tokens["tokenizer"] / "vocab.json").is_file()


def test_a_text_that_was_changed_has_no_known_nats(pipeline: Path) -> None:
    text = pipeline / "val.txt"
    text.write_text(text.read_text().replace("a", "o", 1))
    out = pipeline / "changed.npy"
    assert (
        lm("tokenizer", "encode", "--tokenizer", pipeline / "tokenizer", "--input", text, "--out", out) == 0
    )
    assert "nats" not in json.loads((pipeline / "changed.npy.json").read_text())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file|cannot read"),
        (b"", "empty"),
        (b"good \xff bad", r"not UTF-8.*byte 5|byte 5.*not UTF-8"),
    ],
)
@pytest.mark.parametrize("step", ["train", "encode"])
def test_a_text_that_cannot_be_read_is_refused(
    pipeline: Path, capsys: Capture, content: bytes | None, message: str, step: str
) -> None:
    text = pipeline / "text.txt"
    if content is not None:
        text.write_bytes(content)
    flags = {"train": ["--vocab-size", 300], "encode": ["--tokenizer", pipeline / "tokenizer"]}[step]
    before = snapshot(pipeline)
    line = refused(capsys, "tokenizer", step, "--input", text, "--out", pipeline / "new", *flags)
    assert re.search(message, line)
    assert "text.txt" in line
    assert snapshot(pipeline) == before
    assert not (pipeline / "new").exists()


def test_a_vocabulary_holds_at_least_the_bytes(pipeline: Path, capsys: Capture) -> None:
    flags = ("--input", pipeline / "val.txt", "--out", pipeline / "new", "--vocab-size", 256)
    assert "257" in refused(capsys, "tokenizer", "train", *flags)


def test_an_exported_tokenizer_is_imported_unchanged(pipeline: Path, capsys: Capture) -> None:
    exported, back = pipeline / "tokenizer.json", pipeline / "back"
    assert lm("tokenizer", "export", "--tokenizer", pipeline / "tokenizer", "--out", exported) == 0
    assert lm("tokenizer", "import", "--input", exported, "--out", back) == 0
    assert Tokenizer.load(back).sha256 == Tokenizer.load(pipeline / "tokenizer").sha256
    assert "exists" in refused(capsys, "tokenizer", "import", "--input", exported, "--out", back)


def test_gpt2s_files_are_imported(pipeline: Path, capsys: Capture) -> None:
    ours, gpt2 = Tokenizer.load(pipeline / "tokenizer"), pipeline / "gpt2"
    gpt2.mkdir()
    for name in ("vocab.json", "merges.txt"):
        (gpt2 / name).write_bytes((pipeline / "tokenizer" / name).read_bytes())
    assert lm("tokenizer", "import", "--input", gpt2, "--out", pipeline / "back") == 0
    assert Tokenizer.load(pipeline / "back").sha256 == ours.sha256
    (gpt2 / "merges.txt").unlink()
    line = refused(capsys, "tokenizer", "import", "--input", gpt2, "--out", pipeline / "other")
    assert f"cannot read {gpt2 / 'merges.txt'}" in line
    assert not (pipeline / "other").exists()


def test_inspect_shows_tokens_with_their_ids(made_pipeline: Path, capsys: Capture) -> None:
    assert lm("tokenizer", "inspect", "Once upon", "--tokenizer", made_pipeline / "tokenizer") == 0
    shown = re.sub(r"\033\[[\d;]*m", " ", capsys.readouterr().out).split()
    ids = [int(word) for word in shown if word.isdigit()]
    assert Tokenizer.load(made_pipeline / "tokenizer").decode(ids) == "Once upon"
