"""Writing so that a reader, or a crash, never sees half a file."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizer.errors import InputError


def refuse_existing(path: Path) -> None:
    """Raise InputError where `path` already holds something."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path} exists already: choose another name, or delete it first")


def fsync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def published(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write a file or folder to, then flush it and rename it there.

    On any error the temporary path is removed and `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # Process numbers come again, and a killed process cleans nothing up.
    _remove(temporary)
    try:
        yield temporary
        for written in (*temporary.iterdir(), temporary) if temporary.is_dir() else (temporary,):
            fsync(written)
        temporary.replace(path)
        fsync(path.parent)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        _remove(temporary)
        raise


def discard(folder: Path) -> None:
    """Delete a folder so that a reader never sees half of it: it is hidden first."""
    hidden = folder.with_name(f".{folder.name}.{os.getpid()}.old.tmp")
    _remove(hidden)
    folder.rename(hidden)
    _remove(hidden)


def remove_leftovers(folder: Path) -> None:
    """Delete what writers to this folder left when they were killed. None may be at work."""
    for leftover in folder.glob(".*.tmp"):
        _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def json_text(value: Any) -> str:
    """The one form in which this project writes JSON: keys as given, two spaces, a final newline."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Publish a JSON file."""
    with published(path) as temporary:
        temporary.write_text(json_text(value), encoding="utf-8")
