"""Stages that `lm demo` and `lm experiment` share. They are `lm` commands, and each runs only once."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from lm.files import alone_in, json_text, published, read_object, refuse_existing, write_json
from lm.terminal import show
from tokenizer.errors import InputError


@contextlib.contextmanager
def claim(note: Path, what: str, facts: dict[str, Any]) -> Iterator[None]:
    """Lock a folder, and record its contents in it. Refuse a folder that has other contents.

    Args:
        note: JSON file in the folder, for the record.
        what: What the folder holds, for the error.
        facts: What must be equal for the folder to be used again.

    Raises:
        InputError: the folder holds something else, or another process is at work in it. The error names a fact that
            differs.
    """
    with alone_in(note.parent):
        _check_or_record(note, what, facts)
        yield


def _check_or_record(note: Path, what: str, facts: dict[str, Any]) -> None:
    folder = note.parent
    if not note.exists():
        refuse_existing(folder)
        write_json(note, facts)
        return
    before = read_object(note, f"choose another --out, or delete {folder} first")
    now = json.loads(json_text(facts))
    if before != now:
        name, old, new = _difference(before, now)
        raise InputError(
            f"{folder} holds {what} whose {name} is {old!r}, not {new!r}: choose another --out, or delete it first"
        )


def _difference(before: Any, now: Any, name: str = "") -> tuple[str, Any, Any]:
    """Return the dotted name of the first fact that differs, and its two values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**now, **before}:
            if before.get(key) != now.get(key):
                return _difference(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    return name, before, now


def make_tokens(
    out: Path, input_path: Path | None, vocab_size: int, train_bytes: int, val_bytes: int
) -> tuple[Path, Path]:
    """Write or split a text, train a tokenizer and encode: train.txt, val.txt, tokenizer/, train.npy and val.npy.

    Args:
        input_path: Text to split. If None, stories are written.
        train_bytes: Size of the stories to train on.
        val_bytes: Size of the stories to evaluate on.

    Returns:
        The token files to train and to evaluate on.
    """
    text, val_text = out / "train.txt", out / "val.txt"
    if input_path is None:
        run_stages(
            {
                text: ("stories", "--out", text, "--bytes", train_bytes, "--seed", 1),
                val_text: ("stories", "--out", val_text, "--bytes", val_bytes, "--seed", 2),
            }
        )
    elif not val_text.exists():
        split(input_path, text, val_text)
    tokenizer, tokens, val_tokens = out / "tokenizer", out / "train.npy", out / "val.npy"
    run_stages(
        {tokenizer: ("tokenizer", "train", "--input", text, "--vocab-size", vocab_size, "--out", tokenizer)}
    )
    encode = "tokenizer", "encode", "--tokenizer", tokenizer
    run_stages(
        {
            tokens: (*encode, "--input", text, "--out", tokens),
            val_tokens: (*encode, "--input", val_text, "--out", val_tokens),
        }
    )
    return tokens, val_tokens


def split(input_path: Path, train_text: Path, val_text: Path) -> None:
    """Split a text: the first nine tenths, up to the end of a line, to train on, and the rest to evaluate on."""
    text = input_path.read_bytes()
    cut = text.find(b"\n", len(text) * 9 // 10) + 1 or len(text) * 9 // 10
    for path, part in ((train_text, text[:cut]), (val_text, text[cut:])):
        with published(path) as temporary:
            temporary.write_bytes(part)


def run_stages(commands: Mapping[Path, Sequence[object]]) -> None:
    """Run `lm` commands at once, except those whose result exists.

    Args:
        commands: The words of each command, by its result.
    """
    for result in commands:
        if result.exists():
            show(f"\n# {result} exists already")
    run_commands(*(command for result, command in commands.items() if not result.exists()))


def run_commands(*commands: Sequence[object]) -> list[str]:
    """Run `lm` commands at once, each in a process of its own: two frameworks in one process contend for threads.

    The commands are shown when they start, and what they have printed when all have ended. Their progress, on standard
    error, is shown at once. SIGTERM and SIGHUP are passed on to them.

    Returns:
        What each command printed.

    Raises:
        SystemExit: a command failed, or a signal ended this process.
    """
    outputs: list[IO[str]] = []
    processes: list[subprocess.Popen[bytes]] = []
    printed: list[str] = []
    with contextlib.ExitStack() as stack:
        try:
            with _pass_signals_to(processes):
                for command in commands:
                    outputs.append(stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")))
                    processes.append(stack.enter_context(_start(command, outputs[-1], len(processes))))
                codes = [process.wait() for process in processes]
        finally:
            # The commands have received a signal that ends this process, too. Let them save and say how to resume.
            for process, output in zip(processes, outputs, strict=False):
                process.wait()
                output.seek(0)
                printed.append(output.read())
                show(printed[-1], end="")
    for code in filter(None, codes):
        # The command has said why it failed, unless a signal ended it. A shell adds the signal's number to 128.
        sys.exit(code if code > 0 else 128 - code)
    return printed


def _start(command: Sequence[object], output: IO[str], position: int) -> subprocess.Popen[bytes]:
    """Show and start an `lm` command, whose progress bar is drawn on the line at this position."""
    words = [str(word) for word in command]
    show(f"\n$ lm {shlex.join(words)}")
    # What the command prints may go into a file.
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "TQDM_POSITION": str(position)}
    return subprocess.Popen([sys.executable, "-m", "lm", *words], stdout=output, env=environment)


@contextlib.contextmanager
def _pass_signals_to(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Pass SIGTERM and SIGHUP on to children, and then raise SystemExit. A signal that is ignored stays ignored.

    The terminal sends Ctrl-C to all processes, so Ctrl-C is not passed on.
    """

    def stop(number: int, _: object) -> None:
        for process in processes:
            process.send_signal(number)
        sys.exit(128 + number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {n: signal.signal(n, stop) for n in numbers if signal.getsignal(n) is signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
