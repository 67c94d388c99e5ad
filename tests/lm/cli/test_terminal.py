"""Output that nobody can see. No terminal, pipe or log ends a command, and training is never lost."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm.run.metrics import read_metrics
from lm.schedule import learning_rate
from tests.lm.conftest import lm, train_command
from tests.lm.run.test_train import leaves, numbers
from tests.source import ROOT
from tokenizer.parallel.workers import run_tasks

TEXT = "né 😀"


def ascii_stream() -> io.TextIOWrapper:
    """A stream as Python makes it with PYTHONIOENCODING=ascii."""
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)


def written(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode("ascii")


@pytest.fixture(scope="module")
def accented(made_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name is not ASCII, with links to the pipeline's files."""
    folder = tmp_path_factory.mktemp("accents") / "né"
    folder.mkdir()
    for path in made_pipeline.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "text.txt").write_text(TEXT * 20, encoding="utf-8")
    return folder


COMMANDS: dict[str, Callable[[Path], list[object]]] = {
    "stories": lambda p: ["stories", "--out", p / "s.txt", "--bytes", 100],
    "pairs": lambda p: ["pairs", "reverse", "--out", p / "p.jsonl", "--count", 2],
    "learn": lambda p: [
        "tokenizer",
        "train",
        "--input",
        p / "text.txt",
        "--vocab-size",
        260,
        "--out",
        p / "t",
    ],
    "encode": lambda p: [
        *("tokenizer", "encode", "--tokenizer", p / "tokenizer"),
        *("--input", p / "text.txt", "--out", p / "new.npy"),
    ],
    "inspect": lambda p: ["tokenizer", "inspect", TEXT, "--tokenizer", p / "tokenizer"],
    "write": lambda p: ["tokenizer", "export", "--tokenizer", p / "tokenizer", "--out", p / "t.json"],
    "train": lambda p: train_command(p, "torch", p / "new", "--sample-every", 3, "--sample-prompt", "é"),
    "eval": lambda p: ["eval", "--checkpoint", p / "torch", "--tokens", p / "val.npy"],
    "generate": lambda p: ["generate", "--checkpoint", p / "torch", "--prompt", TEXT, "--max-new-tokens", 2],
    "many": lambda p: ["generate", "--checkpoint", p / "torch", "--prompt", TEXT, "é", "--max-new-tokens", 1],
    "json": lambda p: [
        *("generate", "--checkpoint", p / "torch", "--prompt", TEXT, "--json"),
        *("--max-new-tokens", 2, "--explain-ties"),
    ],
    "score": lambda p: ["score", TEXT, "--checkpoint", p / "torch"],
    "score json": lambda p: ["score", TEXT, "--checkpoint", p / "torch", "--json"],
    "accounting": lambda p: ["accounting", p / "tiny.toml"],
    "runs": lambda p: ["runs", p],
    "report": lambda p: ["report", p / "torch", "--out", p / "report.html"],
    "export": lambda p: ["export", p / "torch", p / "hf", "--format", "hf"],
    "refused": lambda p: ["eval", "--checkpoint", p / "é", "--tokens", p / "val.npy"],
}
# The commands that print the text, or the folder's name.
PRINT_E = {*COMMANDS} - {"eval", "accounting", "runs", "inspect", "score", "score json"}


def test_text_that_the_terminal_cannot_show_is_escaped(
    accented: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {}
    for name, words in COMMANDS.items():
        out, errors = ascii_stream(), ascii_stream()
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", out)
            patch.setattr("sys.stderr", errors)
            assert lm(*words(accented)) == (2 if name == "refused" else 0), (name, written(errors))
        texts[name] = written(out) + written(errors)
    assert {name for name, text in texts.items() if r"\u00e9" in text} == PRINT_E
    assert json.loads(texts["json"].splitlines()[0])["prompt"] == TEXT
    assert json.loads(texts["score json"])["predicted_bytes"] == len(TEXT.encode())
    # Files are UTF-8 all the same.
    samples = [m["sample"] for m in read_metrics(accented / "new") if "sample" in m]
    assert len(samples) == 2
    assert all(sample.startswith("é") for sample in samples)


class Broken(io.StringIO):
    """A stream to which every write fails."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.tries = number, 0

    def write(self, text: str) -> int:
        self.tries += 1
        raise OSError(self.number, os.strerror(self.number))

    def flush(self) -> None:
        if self.tries:
            raise OSError(self.number, os.strerror(self.number))

    def close(self) -> None:
        pass


class BrokenLate(Broken):
    """A stream that keeps what is written, and fails when it must pass it on."""

    def write(self, text: str) -> int:
        self.tries += 1
        return len(text)


STREAMS: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "closed pipe": lambda: Broken(errno.EPIPE),
    "full disk": lambda: Broken(errno.ENOSPC),
    "no terminal": lambda: Broken(errno.EIO),
    "slow reader": lambda: Broken(errno.EAGAIN),
}


@pytest.mark.parametrize("stream", STREAMS)
def test_training_does_not_depend_on_whether_its_output_can_be_written(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    made = [None if stream == "slow reader" else STREAMS[stream](), STREAMS[stream]()]
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", made[0])
        patch.setattr("sys.stderr", made[1])
        code = lm(*train_command(pipeline, "torch", pipeline / "new"))
    assert leaves(pipeline / "new") == leaves(pipeline / "torch")
    assert numbers(pipeline / "new") == numbers(pipeline / "torch")
    assert code == 0
    assert all(one is None or one.tries for one in made)


@pytest.mark.parametrize("stream", [None, Broken(errno.ENOSPC), BrokenLate(errno.ENOSPC)])
def test_results_that_cannot_be_printed_are_an_error_unless_the_output_is_closed(
    made_pipeline: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    stream: Broken | None,
) -> None:
    for name in ("inspect", "eval", "generate", "score", "accounting", "runs"):
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", stream)
            code = lm(*COMMANDS[name](made_pipeline))
        said = capsys.readouterr().err
        # A user closes standard output on purpose. A full disk is an error.
        assert (code, said) == (
            (0, "") if stream is None else (2, f"lm: standard output: {os.strerror(28)}\n")
        )


def started(words: str) -> subprocess.Popen[str]:
    """Start a shell command in a session of its own. LM stands for the command lm."""
    line = words.replace("LM", f"'{sys.executable}' -m lm")
    return subprocess.Popen(
        ["sh", "-c", f"exec {line}"] if ";" not in line and "|" not in line else ["sh", "-c", line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell closes standard files")
@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">/dev/full 2>/dev/full", "2>&1 | head -n 1"])
def test_training_ends_in_a_process_without_standard_files(pipeline: Path, closed: str) -> None:
    if "full" in closed and not Path("/dev/full").exists():
        closed = ">&-"
    words = " ".join(map(str, train_command(pipeline, "torch", pipeline / "new")))
    line = f"LM {words} {closed}"
    with started(line if "|" in closed else f"{line}; exit $?") as process:
        process.communicate(timeout=120)
    assert process.returncode == 0
    for _ in range(300):  # the pipe's reader has ended, and so has the shell
        if (pipeline / "new" / "checkpoints" / "step-00000006").exists():
            break
        time.sleep(0.1)
    assert leaves(pipeline / "new") == leaves(pipeline / "torch")
    assert [m["step"] for m in read_metrics(pipeline / "new")] == [1, 2, 3, 3, 4, 5, 6, 6]


def test_training_saves_if_the_disk_is_too_full_for_metrics(
    pipeline: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = json.dumps

    def full(value: Any, **more: Any) -> str:
        if isinstance(value, dict) and value.get("step") == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(value, **more)

    command = train_command(pipeline, "torch", pipeline / "new")
    with monkeypatch.context() as patch:
        patch.setattr("lm.run.log.json.dumps", full)
        assert lm(*command) == 2
    said = capsys.readouterr().err
    assert f"{pipeline / 'new' / 'metrics.jsonl'}: cannot be written ({os.strerror(28)})" in said
    assert "step 5 is saved" in said
    assert lm(*command, "--resume") == 0
    assert leaves(pipeline / "new") == leaves(pipeline / "torch")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="sends SIGHUP, which Windows has not")
def test_training_continues_under_nohup(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang_up(step: int, *more: Any) -> float:
        os.kill(os.getpid(), signal.SIGHUP)
        return learning_rate(step, *more)

    monkeypatch.setattr("lm.run.train.learning_rate", hang_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert lm(*train_command(pipeline, "torch", pipeline / "new")) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert leaves(pipeline / "new") == leaves(pipeline / "torch")


PROGRAMS = {
    "lm": ["-c", "import sys; from lm.cli import main; sys.exit(main())", "accounting", "gpt2-small"],
    "python -m lm": ["-m", "lm", "accounting", "gpt2-small"],
    "python -m bench": ["-m", "bench", "tokenizer", "--help"],
    "python -m tests.torture": ["-m", "tests.torture", "--help"],
}


@pytest.fixture
def interrupted_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Send Python processes a Ctrl-C when they import a module. No clock is involved."""

    def arrange(module: str) -> None:
        (tmp_path / "sitecustomize.py").write_text(
            "import os, signal, sys\n"
            "class Interrupt:\n"
            "    def find_spec(self, name, *_):\n"
            f"        if name == {module!r}:\n"
            "            sys.meta_path.remove(self)\n"
            "            os.kill(os.getpid(), signal.SIGINT)\n"
            "sys.meta_path.insert(0, Interrupt())\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return arrange


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("module", ["lm.terminal", "datetime", "tokenizer.train_bpe"])
def test_ctrl_c_while_modules_load_is_silent(interrupted_at: Callable[[str], None], module: str) -> None:
    """NumPy turns a Ctrl-C while it loads datetime into an ImportError."""
    interrupted_at(module)
    for program, words in PROGRAMS.items():
        if "torture" in program and module != "lm.terminal":  # its help loads nothing more
            continue
        command = [sys.executable, *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert (program, done.returncode, done.stderr) == (program, 130, "")


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_while_worker_processes_load_does_not_stop_them(
    interrupted_at: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    interrupted_at("tokenizer.parallel.workers")
    (tmp_path / "echo_worker.py").write_text(
        "import numpy as np\n"
        "class Echo:\n"
        "    def setup(self): return {}\n"
        "    @classmethod\n"
        "    def from_setup(cls, setup): return cls()\n"
        "    def run(self, task): return [np.array(task)]\n"
        "    def finish(self): return []\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from echo_worker import Echo  # type: ignore[import-not-found]

    results = list(run_tasks(Echo(), ([i] for i in range(2000)), 2))
    assert [int(array[0]) for result in results for array in result] == [*range(2000)]
    assert capfd.readouterr().err == ""
