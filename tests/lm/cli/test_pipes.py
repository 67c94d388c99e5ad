"""Configs, prompts and texts to score that come through a pipe, compressed, or with a byte-order mark."""

import codecs
import gzip
import io
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lm.cli.commands import parse
from lm.config import load_config
from tests.lm.conftest import lm, refused
from tests.lm.test_config import TOML
from tokenizer import InputError

Capture = pytest.CaptureFixture[str]


def as_file(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def through_a_pipe(path: Path, content: bytes) -> str:
    os.mkfifo(path)
    threading.Thread(target=path.write_bytes, args=(content,), daemon=True).start()
    return str(path)


def compressed(path: Path, content: bytes) -> str:
    return as_file(path, gzip.compress(content))


def with_a_mark(path: Path, content: bytes) -> str:
    return as_file(path, codecs.BOM_UTF8 + content)


WAYS = [as_file, through_a_pipe, compressed, with_a_mark]
Way = Callable[[Path, bytes], str]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_config_is_read_in_every_way(tmp_path: Path, way: Way, end: str) -> None:
    plain = load_config(Path(as_file(tmp_path / "plain.toml", TOML.encode())))
    content = TOML.replace("\n", end).encode()
    assert load_config(Path(way(tmp_path / "run.toml", content))) == plain
    files = ["--train", "a", "--val", "b", "--out", "c"]
    parsed = parse(["train", "--backend", "jax", *files, "--config", way(tmp_path / "x.toml", content)])
    assert parsed.settings == plain


@pytest.mark.parametrize("way", WAYS)
def test_accounting_reads_its_config_once(tmp_path: Path, way: Way, capsys: Capture) -> None:
    outputs = []
    for name in (as_file(tmp_path / "plain.toml", TOML.encode()), way(tmp_path / "config", TOML.encode())):
        assert lm("accounting", "--batch-size", 4, name) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_accounting_reads_its_config_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    for command in (["accounting", "-"], ["accounting", "--batch-size", "4", "-", "--json"]):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TOML.encode())))
        assert lm(*command) == 0
        assert capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = " + b"[" * 50_000, "run.toml: cannot be read"),
        (TOML.encode("utf-16"), "run.toml is UTF-16, not UTF-8"),
        (gzip.compress(TOML.encode(), mtime=0)[:-9], "run.toml is a damaged .gz file"),
        (b"\x00", "run.toml: not a TOML file"),
    ],
)
def test_a_damaged_config_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_config(Path(as_file(tmp_path / "run.toml", content)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/dev/zero", "a\0b", ""])
def test_a_config_that_is_no_file_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_config(Path(name))


def test_prompts_and_texts_to_score_are_read_in_every_way(
    made_pipeline: Path, tmp_path: Path, capsys: Capture
) -> None:
    run, text = made_pipeline / "torch", "Once é\n"
    outputs = set()
    for way in WAYS:
        name = way(tmp_path / f"prompt-{way.__name__}", text.encode())
        command = ("generate", "--checkpoint", run, "--max-new-tokens", 2, "--prompt-file", name, "--json")
        assert lm(*command) == 0
        outputs.add(capsys.readouterr().out)
    assert len(outputs) == 1
    assert json.loads(outputs.pop())["prompt"] == text.removesuffix("\n")
    for way in WAYS:
        name = way(tmp_path / f"text-{way.__name__}", text.encode())
        assert lm("score", "--checkpoint", run, "--json", name) == 0
        outputs.add(capsys.readouterr().out)
    assert len(outputs) == 1
    assert json.loads(outputs.pop())["predicted_bytes"] == len(text.encode())


def test_prompts_and_texts_are_not_read_from_devices(made_pipeline: Path, capsys: Capture) -> None:
    for command in (["generate", "--prompt-file", "/dev/zero"], ["score", "/dev/zero"]):
        line = refused(capsys, *command, "--checkpoint", made_pipeline / "torch")
        assert "/dev/zero: it is a device" in line
