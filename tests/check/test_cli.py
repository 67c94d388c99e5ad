"""The command `lm check`: exit codes, and what it prints and writes."""

import json
from pathlib import Path

import pytest

from tests.lm.conftest import lm

FILES = Path(__file__).parent / "files"
Capture = pytest.CaptureFixture[str]


def test_all_pass_is_exit_code_0(tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as exit:
        lm("check", FILES / "numpy_port.py", "--json", tmp_path / "c.json", "--html", tmp_path / "c.html")
    out = capsys.readouterr().out
    assert exit.value.code == 0
    assert out.splitlines()[-1] == "none of 3 functions off"
    assert "softmax" in out
    verdicts = json.loads((tmp_path / "c.json").read_text())
    assert [(v["function"], v["status"]) for v in verdicts] == [
        ("softmax", "pass"),
        ("cross_entropy", "pass"),
        ("rmsnorm", "pass"),
    ]
    assert (tmp_path / "c.html").read_text().startswith("<!doctype html>")


def test_a_function_that_is_off_is_exit_code_1(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as exit:
        lm("check", FILES / "odd.py", "--layer", "linear", "feed_forward", "cosine", "--dtype", "float64")
    out = capsys.readouterr().out
    assert exit.value.code == 1
    assert "OFF" in out
    assert out.splitlines()[-1] == "1 of 2 functions off; 1 not written yet"


@pytest.mark.parametrize("flag", ["--json", "--html", "--png"])
def test_nothing_runs_if_a_result_exists(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    monkeypatch.setattr("parity.check.run.run_check", None)
    result = tmp_path / "result"
    result.write_text("mine")
    assert lm("check", FILES / "numpy_port.py", flag, result) == 2
    assert "exists" in capsys.readouterr().err
    assert result.read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["none.py"], "cannot be imported: FileNotFoundError"),
        (["no_such_module"], "No module named 'no_such_module'"),
        ([FILES / "numpy_port.py", "--layer", "rope"], "layer rope: the file has softmax"),
        ([FILES / "numpy_port.py", "--time-limit", "0"], "time-limit is 0"),
        ([FILES / "numpy_port.py", "--memory-limit", "-1"], "memory-limit is -1"),
        ([FILES / "numpy_port.py", "--json", FILES], "exists"),
    ],
)
def test_bad_input_is_exit_code_2(capsys: Capture, words: list[object], told: str) -> None:
    assert lm("check", *words) == 2
    assert told in capsys.readouterr().err
