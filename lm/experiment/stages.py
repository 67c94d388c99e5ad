"""Stages that `lm demo` and `lm experiment` share. Each is an `lm` command that runs only once."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
        stage(text, "stories", "--out", text, "--bytes", train_bytes, "--seed", 1)
        stage(val_text, "stories", "--out", val_text, "--bytes", val_bytes, "--seed", 2)
    elif not val_text.exists():
        split(input_path, text, val_text)
    tokenizer, tokens, val_tokens = out / "tokenizer", out / "train.npy", out / "val.npy"
    stage(tokenizer, "tokenizer", "train", "--input", text, "--vocab-size", vocab_size, "--out", tokenizer)
    for source, encoded in ((text, tokens), (val_text, val_tokens)):
        stage(encoded, "tokenizer", "encode", "--tokenizer", tokenizer, "--input", source, "--out", encoded)
    return tokens, val_tokens


def split(input_path: Path, train_text: Path, val_text: Path) -> None:
    """Split a text: the first nine tenths, up to the end of a line, to train on, and the rest to evaluate on."""
    text = input_path.read_bytes()
    cut = text.find(b"\n", len(text) * 9 // 10) + 1 or len(text) * 9 // 10
    for path, part in ((train_text, text[:cut]), (val_text, text[cut:])):
        with published(path) as temporary:
            temporary.write_bytes(part)


def stage(result: Path, *command: object) -> None:
    """Run an `lm` command, unless its result exists."""
    if result.exists():
        show(f"\n# {result} exists already")
    else:
        run_command(*command)


def run_command(*command: object) -> str:
    """Run an `lm` command in a process of its own, because two frameworks in one process contend for threads.

    The command and what it prints are shown at once. SIGTERM and SIGHUP are passed on to it.

    Returns:
        What the command printed.

    Raises:
        SystemExit: the command failed, or a signal ended this process.
    """
    words = [str(word) for word in command]
    show(f"\n$ lm {shlex.join(words)}")
    printed = ""
    with subprocess.Popen(
        [sys.executable, "-m", "lm", *words],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},  # what it prints may go into a file
    ) as process:
        assert process.stdout is not None
        try:
            with _pass_signals_to(process):
                while char := process.stdout.read(1):
                    show(char, end="")
                    printed += char
        except (KeyboardInterrupt, SystemExit):
            # The command has received the signal, too. Let it save and say how to resume.
            show(process.communicate()[0], end="")
            raise
    if process.returncode:
        # The command has said why it failed, unless a signal ended it. A shell adds the signal's number to 128.
        sys.exit(process.returncode if process.returncode > 0 else 128 - process.returncode)
    return printed


@contextlib.contextmanager
def _pass_signals_to(process: subprocess.Popen[str]) -> Iterator[None]:
    """Pass SIGTERM and SIGHUP on to a child, and then raise SystemExit. A signal that is ignored stays ignored.

    The terminal sends Ctrl-C to both processes, so Ctrl-C is not passed on.
    """

    def stop(number: int, _: object) -> None:
        process.send_signal(number)
        sys.exit(128 + number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {n: signal.signal(n, stop) for n in numbers if signal.getsignal(n) is signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
