"""What several longer commands begin with, text, tokenizer and tokens, as `lm` commands that are each run once."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm.files import alone_in, json_text, published, read_object, refuse_existing, write_json
from lm.terminal import show
from tokenizer.errors import InputError


@contextlib.contextmanager
def claimed(note: Path, what: str, facts: dict[str, Any]) -> Iterator[None]:
    """Be alone in a folder, note there what it is of, and refuse a folder that is of something else.

    Args:
        note: JSON file in the folder.
        what: What the folder holds, for the error.

    Raises:
        InputError: the folder holds something else, of which a fact that differs is named, or another process is at
            work there.
    """
    with alone_in(note.parent):
        _claim(note, what, facts)
        yield


def _claim(note: Path, what: str, facts: dict[str, Any]) -> None:
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
            f"{folder} holds {what} of another {name}, {old!r} and not {new!r}: choose another --out, or delete "
            "it first"
        )


def _difference(before: Any, now: Any, name: str = "") -> tuple[str, Any, Any]:
    """The dotted name of the first fact that differs, and both its values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**now, **before}:
            if before.get(key) != now.get(key):
                return _difference(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    return name, before, now


def make_tokens(
    out: Path, input_path: Path | None, vocab_size: int, train_bytes: int, val_bytes: int
) -> tuple[Path, Path]:
    """Make or read a text, train a tokenizer and encode: train.txt, val.txt, tokenizer/, train.npy and val.npy.

    Args:
        input_path: A text to split; if None, stories of so many bytes are written.

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
    """The first nine tenths of the text, up to the end of a line, to train on; the rest to evaluate on."""
    text = input_path.read_bytes()
    cut = text.find(b"\n", len(text) * 9 // 10) + 1 or len(text) * 9 // 10
    for path, part in ((train_text, text[:cut]), (val_text, text[cut:])):
        with published(path) as temporary:
            temporary.write_bytes(part)


def stage(result: Path, *command: object) -> None:
    """Run a command unless its result is there."""
    if result.exists():
        show(f"\n# {result} is there already")
    else:
        run_command(*command)


def run_command(*command: object) -> str:
    """Show and run an `lm` command in a process of its own, since two frameworks in one contend for threads.

    Returns:
        What it printed, which is passed on as it comes.
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
            while char := process.stdout.read(1):
                show(char, end="")
                printed += char
        except KeyboardInterrupt:
            # The command was interrupted too: let it save and say how to go on.
            show(process.communicate()[0], end="")
            raise
    if process.returncode:
        # The command has said why, but for a signal, whose number a shell would add to 128.
        sys.exit(process.returncode if process.returncode > 0 else 128 - process.returncode)
    return printed
