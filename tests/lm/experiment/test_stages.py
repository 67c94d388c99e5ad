"""Stages of `lm demo`: commands that run at once, and a signal that ends the demo also ends them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lm.experiment import demo
from lm.experiment.stages import run_commands, run_stages
from tests.source import ROOT


@pytest.mark.skipif(os.name != "posix", reason="sends SIGTERM and SIGHUP")
@pytest.mark.usefixtures("hangup_is_noticed")
@pytest.mark.parametrize(
    "number", [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
)
def test_a_signal_to_the_demo_stops_its_children_which_say_how_to_resume(tmp_path: Path, number: int) -> None:
    # A child that says its process id, and waits for a signal.
    program(
        tmp_path,
        "import os, signal, sys, time\n"
        "def stop(number, _): print('saved', *sys.argv[1:], flush=True); sys.exit(0)\n"
        f"signal.signal({number:d}, stop)\n"
        "os.write(2, b'%d\\n' % os.getpid())\n"
        "time.sleep(60)\n",
    )
    script = (
        "import os, sys; from lm.experiment.stages import run_commands; "
        f"os.chdir({str(tmp_path)!r}); run_commands(('train', 1), ('train', 2))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    with process:
        assert process.stderr is not None
        pids = [int(process.stderr.readline()) for _ in range(2)]
        process.send_signal(number)
        said, errors = process.communicate(timeout=60)
    shown = "\n$ lm train 1\n\n$ lm train 2\nsaved 1\nsaved 2\n"
    assert (process.returncode, said, errors) == (128 + number, shown.replace("saved", "saved train"), "")
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def program(folder: Path, text: str) -> None:
    """Write a program that takes the place of `lm` in this folder."""
    (folder / "lm").mkdir()
    (folder / "lm" / "__init__.py").touch()
    (folder / "lm" / "__main__.py").write_text(text)


def test_commands_run_at_once_and_the_code_of_one_that_fails_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Each waits for a file of the other, so one after the other would never end.
    program(
        tmp_path,
        "import pathlib, sys, time\n"
        "mine, other, code = sys.argv[1:]\n"
        "pathlib.Path(mine).touch()\n"
        "end = time.monotonic() + 60\n"
        "while not pathlib.Path(other).exists() and time.monotonic() < end: time.sleep(0.01)\n"
        "print(mine, pathlib.Path(other).exists())\n"
        "sys.exit(int(code))\n",
    )
    monkeypatch.chdir(tmp_path)
    assert run_commands(("a", "b", 0), ("b", "a", 0)) == ["a True\n", "b True\n"]
    assert capsys.readouterr().out == "\n$ lm a b 0\n\n$ lm b a 0\na True\nb True\n"
    with pytest.raises(SystemExit) as ended:
        run_commands(("a", "b", 0), ("b", "a", 3))
    assert ended.value.code == 3


def test_a_stage_whose_result_exists_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program(tmp_path, "import pathlib, sys; pathlib.Path(sys.argv[1]).touch()")
    monkeypatch.chdir(tmp_path)
    Path("a").touch()
    run_stages({Path("a"): ("a",), Path("b"): ("b",)})
    assert capsys.readouterr().out == "\n# a exists already\n\n$ lm b\n"
    assert Path("b").exists()


def test_the_demo_says_how_far_each_backend_ends_above_the_floor() -> None:
    metrics = {
        name: [{"step": 1, "train_loss": 2.0, "val_loss": loss, "seconds": 1.0, "tokens": 9}]
        for name, loss in (("torch", 1.5), ("jax", 1.25))
    }
    said = "The validation loss ends 1.1000 (torch), 0.8500 (jax) nats per token above the entropy floor."
    assert said in demo._report(metrics, 0.4, {"torch": "a", "jax": "a"})
    assert "entropy floor" not in demo._report(metrics, None, {"torch": "a", "jax": "a"})
