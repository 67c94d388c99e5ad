"""Every path flag of every command, given a wrong path: one line answers, and no file is changed."""

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lm.api import load
from lm.cli.commands import COMMANDS
from lm.config import load_config
from lm.data.pairs import open_pairs
from lm.data.token_files import open_tokens
from tests.lm.conftest import lm, snapshot
from tests.lm.data.test_pairs import MODEL
from tokenizer import InputError, Tokenizer

Capture = pytest.CaptureFixture[str]
# What each command needs. A path that is tried replaces its value.
TRAIN = ["--config", "tiny.toml", "--train", "train.npy", "--val", "val.npy", "--out", "new"]
NEEDED: dict[str, list[str]] = {
    "stories": ["--out", "new", "--bytes", "10"],
    "pairs": ["reverse", "--out", "new", "--count", "1"],
    "tokenizer train": ["--input", "val.txt", "--out", "new", "--vocab-size", "257"],
    "tokenizer encode": ["--tokenizer", "tokenizer", "--input", "val.txt", "--out", "new"],
    "tokenizer inspect": ["a", "--tokenizer", "tokenizer"],
    "tokenizer export": ["--tokenizer", "tokenizer", "--out", "new"],
    "tokenizer import": ["--input", "tokenizer", "--out", "new"],
    "train": ["--backend", "torch", "--steps", "1", *TRAIN],
    "eval": ["--checkpoint", "torch", "--tokens", "val.npy"],
    "generate": ["--checkpoint", "torch", "--max-new-tokens", "1"],
    "accounting": ["tiny.toml"],
    "experiment": ["sgd", "--config", "tiny.toml", "--out", "new"],
    "score": ["a", "--checkpoint", "torch"],
    "export": ["torch", "new", "--format", "hf"],
    "import": ["hf", "new", "--format", "hf"],
    "runs": [],
    "report": ["torch", "--out", "new"],
    "track": ["torch", "--to", "tensorboard"],
    "data": ["get", "owt", "--out", "new"],
    "parity": [],
    "check": ["tiny.toml"],
    "demo": ["--out", "new"],
}
# Paths that are not annotated as paths, with the flag or the value in NEEDED that they replace.
OTHERS = [("tokenizer train", "input"), ("tokenizer encode", "input"), ("accounting", "tiny.toml")]
POSITIONAL = {
    ("export", "checkpoint"): "torch",
    ("export", "out"): "new",
    ("import", "source"): "hf",
    ("import", "out"): "new",
    ("report", "runs"): "torch",
    ("track", "folder"): "torch",
    ("runs", "folder"): None,
}
BAD = [".", "/", "..", "", "tokenizer", "none/none", "n" * 300, "n" * 300 + "/x", "a\0b", "/dev/null"]


def classes() -> Iterator[tuple[str, type]]:
    for name, command in COMMANDS.items():
        if name != "tokenizer":
            yield name, command
    for part in typing.get_args(typing.get_type_hints(COMMANDS["tokenizer"])["command"]):
        yield f"tokenizer {part.__name__.removeprefix('Tokenizer').lower()}", part


def path_flags() -> list[tuple[str, str]]:
    found = []
    for name, command in classes():
        hints = typing.get_type_hints(command)
        found += [(name, f.name) for f in dataclasses.fields(command) if "Path" in str(hints[f.name])]
    return found + OTHERS


def command_line(name: str, flag: str, value: str) -> list[str]:
    words = list(NEEDED[name])
    option, old = f"--{flag.replace('_', '-')}", POSITIONAL.get((name, flag), flag)
    if option in words:
        words[words.index(option) + 1] = value
    elif old in words:
        words[words.index(old)] = value
    else:
        words += [value] if (name, flag) in POSITIONAL else [option, value]
    return [*name.split(), *words]


@pytest.mark.parametrize(("name", "flag"), path_flags())
def test_a_wrong_path_is_answered_in_one_line(
    made_pipeline: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    flag: str,
) -> None:
    for entry in made_pipeline.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)

    # If the command starts what would take long, it has accepted the path.
    def begun(*_: object, **__: object) -> Any:
        raise InputError("work has begun")

    for work in (
        "lm.experiment.stages.run_commands",
        "lm.experiment.demo.make_tokens",
        "lm.experiment.runs.make_tokens",
        "lm.corpora.download.get_dataset",
        "parity.run.run_parity",
        "parity.check.run.run_check",
        "lm.run.opening.load",
        "lm.backend.load",
    ):
        monkeypatch.setattr(work, begun)
    before = snapshot(made_pipeline)
    # A search for runs on the whole disk would take long.
    for value in BAD if name != "runs" else BAD[3:]:
        code = lm(*command_line(name, flag, value))
        printed = capsys.readouterr()
        assert code in (0, 2), (value, printed)
        if code == 2:
            assert printed.err.splitlines()[-1].startswith("lm: "), value
        assert "Traceback" not in printed.err
    assert snapshot(made_pipeline) == before


@pytest.mark.parametrize("value", [".", "/", "..", "", "none/none", "n" * 300, "a\0b"])
def test_functions_refuse_a_wrong_path_in_one_line(value: str) -> None:
    for read in (
        load,
        Tokenizer.load,
        load_config,
        lambda path: open_tokens(path, 10, 1),
        lambda path: open_pairs(path, MODEL),
    ):
        with pytest.raises((InputError, OSError)) as caught:
            read(Path(value))
        assert "\n" not in str(caught.value)
