"""Files and folders of results: never overwritten, never half there."""

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
    """Delete a folder so that a reader never sees half of it: it is hidden first."""
    hidden = folder.with_name(f".{folder.name}.{os.getpid()}.old.tmp")
    remove(hidden)
    folder.rename(hidden)
    remove(hidden)


def remove_leftovers(folder: Path) -> None:
    """Delete what writers to this folder left when they were killed. None may be at work."""
    for leftover in folder.glob(".*.tmp"):
        remove(leftover)


def require_file(path: Path) -> None:
    """Refuse what is no regular file: the reader of a pipe or a device may wait for ever.

    Raises:
        InputError: it is a folder, a pipe, a device, or no path at all.
        OSError: it is missing.
    """
    try:
        mode = path.stat().st_mode
    except ValueError:  # of a path with a zero byte
        raise InputError(f"{str(path)!r}: is not a path; give the name of a file") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise InputError(
            f"{path}: is {kind}, and must be a file; write what it holds to a file, and give that"
        )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path, mend: str) -> Any:
    """The value in a JSON file.

    Args:
        mend: What to do if there is none; the error ends with it.

    Raises:
        InputError: it cannot be read, or is not JSON that this project could write (`tokenizer.files.strict_json`).
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
    """The object in a JSON file; otherwise as `read_json`."""
    value = read_json(path, mend)
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object, so it is corrupted; {mend}")
    return value


def json_text(value: Any) -> str:
    """The one form in which this project writes JSON: keys as given, two spaces, a final newline."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Publish a JSON file."""
    with published(path) as temporary:
        temporary.write_text(json_text(value), encoding="utf-8", newline="")
