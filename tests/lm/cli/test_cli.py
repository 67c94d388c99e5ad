"""The command: exit codes, help, `lm eval`, `lm parity`. One line answers a mistake, and no file is overwritten."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lm.cli.commands import COMMANDS
from tests.lm.conftest import lm, refused, snapshot, train_command
from tokenizer import InputError, train_bpe

Capture = pytest.CaptureFixture[str]


def test_both_backends_evaluate_a_model_to_equal_numbers(pipeline: Path, capsys: Capture) -> None:
    assert lm("eval", "--checkpoint", pipeline / "jax", "--tokens", pipeline / "val.npy") == 0
    jax = capsys.readouterr().out
    names = [line[:13].strip() for line in jax.splitlines()]
    assert names == ["loss", "entropy floor", "excess", "perplexity", "bits per byte", "accuracy"]
    facts = json.loads((pipeline / "val.npy.json").read_text())
    assert f"{facts['nats'] / facts['tokens']:.4f} nats per token" in jax
    assert (
        lm("eval", "--backend", "torch", "--checkpoint", pipeline / "jax", "--tokens", pipeline / "val.npy")
        == 0
    )
    torch = capsys.readouterr().out
    numbers = [[float(n.replace(",", "")) for n in re.findall(r"\d[\d.,]*", text)] for text in (torch, jax)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-4)


def test_the_batch_size_of_eval_does_not_change_what_it_prints(made_pipeline: Path, capsys: Capture) -> None:
    command = ("eval", "--checkpoint", made_pipeline / "torch", "--tokens", made_pipeline / "val.npy")
    printed = []
    for flags in ((), ("--batch-size", 1), ("--batch-size", 3), ("--batch-size", 10**6)):
        assert lm(*command, *flags) == 0
        printed.append([float(n) for n in re.findall(r"\d+\.\d+", capsys.readouterr().out)])
    assert printed == [pytest.approx(printed[0], rel=1e-4)] * 4
    for batch_size in (0, -1, 2**63):
        assert f"batch_size is {batch_size}: give" in refused(capsys, *command, "--batch-size", batch_size)


@pytest.mark.parametrize(
    "words", [[], ["tokenizer"], ["nonsense"], ["train"], ["eval", "--nonsense"], ["train", "--config"]]
)
def test_a_wrong_command_line_is_refused_in_one_line(capsys: Capture, words: list[str]) -> None:
    assert "see lm --help" in refused(capsys, *words)


def test_no_command_overwrites_a_file(pipeline: Path, capsys: Capture) -> None:
    before = snapshot(pipeline)
    text, tokens, tokenizer = pipeline / "val.txt", pipeline / "val.npy", pipeline / "tokenizer"
    for command in (
        ("stories", "--out", text, "--bytes", 100),
        ("tokenizer", "train", "--input", text, "--vocab-size", 300, "--out", tokenizer),
        ("tokenizer", "encode", "--tokenizer", tokenizer, "--input", text, "--out", tokens),
        ("demo", "--out", pipeline),
    ):
        assert "exists" in refused(capsys, *command)
    assert snapshot(pipeline) == before


def test_exit_codes_and_help_of_the_command_in_its_own_process(made_pipeline: Path) -> None:
    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lm", *map(str, words)]
        return subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"}, check=False
        )

    help_text = run("--help")
    assert help_text.returncode == 0
    names = re.findall(r"^  (\w+)  +[A-Z].*\.$", help_text.stdout, re.MULTILINE)
    assert names[:3] == ["demo", "train", "generate"]
    assert names == list(COMMANDS)
    assert max(map(len, help_text.stdout.splitlines())) <= 80
    wrong = run("eval", "--checkpoint", "none", "--tokens", "none")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == (
        "lm: none: holds no checkpoint; give the folder of a run that lm train has saved to\n"
    )


@pytest.mark.parametrize(("error", "code"), [(1e-7, 0), (1e-5, 1), (float("nan"), 1)])
def test_parity_over_budget_is_exit_code_1(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, error: float, code: int
) -> None:
    from parity import run

    case = run.random_cases("softmax", 1, 0)[0]
    found = [run.Error("softmax", "forward", "torch-jax", error, 1e-6, "output", case)]
    monkeypatch.setattr(run, "run_parity", lambda *_, **__: found)
    with pytest.raises(SystemExit) as exit:
        lm("parity", "--json", tmp_path / "parity.json", "--plot", tmp_path / "parity.png")
    assert exit.value.code == code
    assert json.loads((tmp_path / "parity.json").read_text())[0]["passed"] is (code == 0)
    assert (tmp_path / "parity.png").read_bytes().startswith(b"\x89PNG")
    assert "exists" in refused(capsys, "parity", "--json", tmp_path / "parity.json")
    assert "cases is 0" in refused(capsys, "parity", "--cases", 0)


@pytest.mark.parametrize("threads", [-1, 0, 1025, 100_000, 2**63])
def test_an_impossible_number_of_threads_is_refused_before_a_framework_loads(
    made_pipeline: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    def load(*_: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("lm.backend.load", load)
    run, tokens = made_pipeline / "torch", made_pipeline / "val.npy"
    for command in (
        train_command(made_pipeline, "jax", tmp_path / "out"),
        ["eval", "--checkpoint", run, "--tokens", tokens],
        ["generate", "--checkpoint", run],
        ["score", "--checkpoint", run, "some text"],
        ["experiment", "silu", "--out", tmp_path / "out"],
    ):
        assert f"threads is {threads}: give 1 to 1024" in refused(capsys, *command, "--threads", threads)
    with pytest.raises(InputError, match=f"num_workers is {threads}; ask for 1 to 1024"):
        train_bpe(made_pipeline / "val.txt", 300, num_workers=threads)
    for benchmark in ("train_step", "layers", "generate", "data", "product"):
        with pytest.raises(SystemExit, match="2"):
            importlib.import_module(f"bench.{benchmark}").main(["--threads", str(threads)])
        assert f"threads is {threads}: give 1 to 1024" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
