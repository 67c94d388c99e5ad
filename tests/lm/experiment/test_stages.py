"""Stages of `lm demo`: a signal that ends the demo also ends the command that it runs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lm.experiment import demo
from tests.source import ROOT


@pytest.mark.skipif(os.name != "posix", reason="sends SIGTERM and SIGHUP")
@pytest.mark.usefixtures("hangup_is_noticed")
@pytest.mark.parametrize(
    "number", [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
)
def test_a_signal_to_the_demo_stops_its_child_which_says_how_to_resume(tmp_path: Path, number: int) -> None:
    # A child that says its process id, and waits for a signal.
    child = tmp_path / "lm" / "__main__.py"
    child.parent.mkdir()
    (child.parent / "__init__.py").touch()
    child.write_text(
        "import os, signal, sys, time\n"
        "def stop(number, _): print('saved', flush=True); sys.exit(0)\n"
        f"signal.signal({number:d}, stop)\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    script = (
        "import os, sys; from lm.experiment.stages import run_command; "
        f"os.chdir({str(tmp_path)!r}); run_command('train')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        assert process.stdout.readline() == "$ lm train\n"
        pid = int(process.stdout.readline())
        process.send_signal(number)
        said, errors = process.communicate(timeout=60)
    assert (process.returncode, said, errors) == (128 + number, "saved\n", "")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_demo_says_how_far_each_backend_ends_above_the_floor() -> None:
    metrics = {
        name: [{"step": 1, "train_loss": 2.0, "val_loss": loss, "seconds": 1.0, "tokens": 9}]
        for name, loss in (("torch", 1.5), ("jax", 1.25))
    }
    said = "The validation loss ends 1.1000 (torch), 0.8500 (jax) nats per token above the entropy floor."
    assert said in demo._report(metrics, 0.4, {"torch": "a", "jax": "a"})
    assert "entropy floor" not in demo._report(metrics, None, {"torch": "a", "jax": "a"})
