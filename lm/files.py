"""Files and folders of results, which are never overwritten and never half written."""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from tokenizer.errors import InputError
from tokenizer.files.publish import (
    alone_at,
    alone_in,
    is_locked,
    published,
    refuse_existing,
    remove,
    reserved,
)
from tokenizer.files.strict_json import parse_json

__all__ = [
    "alone_at",
    "alone_in",
    "discard",
    "file_sha256",
    "is_locked",
    "json_text",
    "published",
    "read_json",
    "read_object",
    "refuse_existing",
    "remove",
    "remove_leftovers",
    "require_file",
    "reserved",
    "write_json",
]

_LARGEST_JSON = 1 << 24


def discard(folder: Path) -> None:
    """Delete a folder. It is renamed first, so that a reader never sees half of it."""
    hidden = folder.with_name(f".{folder.name}.{os.getpid()}.old.tmp")
    remove(hidden)
    folder.rename(hidden)
    remove(hidden)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left in this folder. No process may be writing to it."""
    for leftover in folder.glob(".*.tmp"):
        remove(leftover)


def require_file(path: Path) -> None:
    """Refuse anything except a regular file: reading a pipe or a device may wait for ever.

    Raises:
        InputError: it is a folder, a pipe or a device, or the path is not a path.
        OSError: it does not exist.
    """
    try:
        mode = path.stat().st_mode
    except ValueError:  # the path has a zero byte
        raise InputError(f"{str(path)!r}: is not a path; give the name of a file") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise InputError(
            f"{path}: is {kind}, but must be a file; write its contents to a file and give that file"
        )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path, mend: str) -> Any:
    """Return the value in a JSON file.

    Args:
        mend: How to fix a file that cannot be read; the error ends with it.

    Raises:
        InputError: the file cannot be read, or is not JSON as this project writes it (`tokenizer.files.strict_json`).
    """
    try:
        require_file(path)
        if path.stat().st_size > _LARGEST_JSON:
            raise InputError(f"{path}: not a JSON object, having more than {_LARGEST_JSON:,} bytes; {mend}")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {mend}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a JSON object, so it is corrupted ({error}); {mend}") from None
    try:
        return parse_json(text, "it")
    except InputError as error:
        raise InputError(f"{path}: not a JSON object, so it is corrupted ({error}); {mend}") from None


def read_object(path: Path, mend: str) -> dict[str, Any]:
    """Return the object in a JSON file, like `read_json`; another value is an error."""
    value = read_json(path, mend)
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object, so it is corrupted; {mend}")
    return value


def json_text(value: Any) -> str:
    """Return a value as JSON in this project's only form: keys in their order, two spaces, a final newline."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file. A reader never sees half of it."""
    with published(path) as temporary:
        temporary.write_text(json_text(value), encoding="utf-8", newline="")
