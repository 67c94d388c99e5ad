"""Flags of the command line. A flag with several values takes them in one place or in several."""

import argparse
import contextlib
import dataclasses
import importlib
import io
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lm as package
from bench.__main__ import BENCHMARKS
from lm.cli.commands import COMMANDS, parse
from lm.cli.flags import Gather
from tests.lm.conftest import lm, refused

# What each command needs in addition to the flag that is tried.
NEEDED: dict[str, list[str]] = {
    "stories": ["--out", "o"],
    "pairs": ["stories", "--out", "o"],
    "tokenizer train": ["--input", "i", "--out", "o", "--vocab-size", "300"],
    "tokenizer encode": ["--tokenizer", "t", "--input", "i", "--out", "o"],
    "tokenizer inspect": ["text", "--tokenizer", "t"],
    "tokenizer export": ["--tokenizer", "t", "--out", "o"],
    "tokenizer import": ["--input", "i", "--out", "o"],
    "train": ["--backend", "jax", "--train", "i", "--val", "v", "--out", "o"]
    + [f"--model.{size}=2" for size in ("vocab-size", "context-length", "d-model", "num-layers", "num-heads")]
    + ["--model.num-heads=1"],
    "eval": ["--checkpoint", "c", "--tokens", "t"],
    "generate": ["--checkpoint", "c"],
    "accounting": ["gpt2-small"],
    "experiment": ["sgd"],
    "score": ["text", "--checkpoint", "c"],
    "export": ["c", "o", "--format", "hf"],
    "import": ["s", "o", "--format", "hf"],
    "runs": [],
    "report": ["r"],
    "track": ["r"],
    "data": ["get", "owt"],
    "parity": [],
    "check": ["adapters.py"],
    "demo": [],
}
VALUES = {
    "FLOAT": ["1.5", "2.5", "3.5"],
    "INT": ["1", "2", "3"],
    "STR": ["a b", "-", "é"],
    "PATH": ["a b", "-", "é"],
}


def flags_with_lists(name: str) -> dict[str, list[str]]:
    """The flags that take any number of values, as the help of a command shows, each with three values."""
    with contextlib.redirect_stdout(io.StringIO()) as page, pytest.raises(SystemExit):
        parse([*name.split(), "--help"])
    found = re.findall(r"(--[\w.-]+) \[(\S+) \[", page.getvalue())
    return {flag: (VALUES.get(kind) or kind.strip("{}").split(",") * 3)[:3] for flag, kind in found}


@pytest.fixture(scope="module")
def lists() -> dict[str, dict[str, list[str]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        return {name: flags_with_lists(name) for name in NEEDED}


def test_every_command_is_tried(lists: dict[str, dict[str, list[str]]]) -> None:
    assert {name.split()[0] for name in NEEDED} == COMMANDS.keys()
    assert {(name, flag[2:]) for name, flags in lists.items() for flag in flags} >= {
        *(("train", flag) for flag in ("train", "weights", "track")),
        *(("generate", flag) for flag in ("prompt", "stop")),
        *(("accounting", flag) for flag in ("mesh", "hardware")),
        *(("experiment", flag) for flag in ("rates", "batch-sizes")),
        *(("tokenizer train", flag) for flag in ("input", "special-tokens")),
        ("tokenizer encode", "input"),
        ("tokenizer import", "special-tokens"),
        ("track", "to"),
    }


def value(command: Any, name: str) -> Any:
    """The value of a field of a parsed command, at any depth."""
    for field in dataclasses.fields(command):
        inner = getattr(command, field.name)
        if field.name == name:
            return inner
        if dataclasses.is_dataclass(inner) and (found := value(inner, name)) is not None:
            return found
    return None


def test_every_form_of_a_list_gives_equal_values(lists: dict[str, dict[str, list[str]]]) -> None:
    forms: tuple[Callable[..., list[list[str]]], ...] = (
        lambda flag, _, a, b, c: [[flag, a, b, c], [], []],
        lambda flag, _, a, b, c: [[flag, a], [flag, b], [flag, c]],
        lambda flag, _, a, b, c: [[f"{flag}={a}"], [f"{flag}={b}"], [flag, c]],
        lambda flag, other, a, b, c: [[f"{flag}={a}", b], [], [other, c]],
    )
    for name, flags in lists.items():
        needed = list(NEEDED[name])
        for flag in flags.keys() & {*needed}:
            del needed[needed.index(flag) : needed.index(flag) + 2]
        for flag in flags:
            if flag.endswith("layer-types"):  # sliding layers need a window
                needed += [flag.replace("layer-types", "sliding-window"), "4"]
        for form in forms if flags else ():
            places = [form(flag, "--" + flag[2:].replace("-", "_"), *v) for flag, v in flags.items()]
            # The other flags stand between two places of a flag.
            words = [word for i in range(3) for place in places for word in place[i]]
            command = parse([*name.split(), *needed, *words])
            found = [value(command, flag[2:].split(".")[-1].replace("-", "_")) for flag in flags]
            assert [[str(v) for v in values] for values in found] == [*flags.values()], words


def test_values_that_look_like_flags_come_after_an_equals_sign() -> None:
    values = ["--prompt", "-a", "--", "-inf", "- b", ""]
    command = parse(["generate", "--checkpoint", "c", *(f"--prompt={v}" for v in values), "--stop=-x"])
    assert list(command.prompt) == values
    assert command.sampling.stop == ("-x",)


def test_the_last_value_of_a_flag_with_one_value_counts() -> None:
    words = ["pairs", "reverse", "--out", "a", "--count", "1", "--word-lengths", "1", "2"]
    command = parse([*words, "--out", "b", "--count=2", "--word-lengths", "3", "4"])
    assert (command.out, command.count, command.word_lengths) == (Path("b"), 2, (3, 4))


def test_a_list_may_stand_before_a_positional_argument() -> None:
    command = parse(["experiment", "--rates", "1", "--seeds", "7", "--rates", "2", "sgd"])
    assert (command.name, command.rates, command.seeds) == ("sgd", (1, 2), 7)


def test_the_benchmarks_gather_lists_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ready(Exception):
        pass

    actions: dict[str, list[argparse.Action]] = {}

    def keep(parser: argparse.ArgumentParser, _: Any = None) -> None:
        actions[str(parser.prog)] = parser._actions
        raise Ready

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", keep)
    for name in BENCHMARKS:
        with pytest.raises(Ready):
            importlib.import_module(f"bench.{name.replace('-', '_')}").main([])
    with pytest.raises(Ready):
        importlib.import_module("tests.torture").run()
    assert len(actions) == len(BENCHMARKS) + 1
    lists = [a for a in itertools.chain(*actions.values()) if a.nargs in ("+", "*") and a.option_strings]
    assert len(lists) >= 8
    assert [a.option_strings for a in lists if not isinstance(a, Gather)] == []


def test_gathered_values_replace_the_default_of_argparse() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--x", type=int, nargs="+", default=[7], action=Gather)
    lines: list[list[str]] = [
        [],
        ["--x", "1", "2"],
        ["--x", "1", "--x", "2"],
        ["--x=1", "--x", "2", "3", "--x=4"],
    ]
    assert [parser.parse_args(line).x for line in lines] == [[7], [1, 2], [1, 2], [1, 2, 3, 4]]
    assert parser.parse_args([]).x == [7]


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert lm("--version") == 0
    assert capsys.readouterr().out == f"twinlm {package.__version__}\n"
    assert "see lm --help" in refused(capsys, "eval", "--version")
