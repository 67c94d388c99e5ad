"""Files and folders of results: never overwritten, never half there."""

import json
import os
from pathlib import Path
from typing import Any

from tokenizer.publish import alone_at, alone_in, is_locked, published, refuse_existing, remove, reserved

__all__ = [
    "alone_at",
    "alone_in",
    "discard",
    "is_locked",
    "json_text",
    "published",
    "refuse_existing",
    "remove_leftovers",
    "reserved",
    "write_json",
]


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


def json_text(value: Any) -> str:
    """The one form in which this project writes JSON: keys as given, two spaces, a final newline."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Publish a JSON file."""
    with published(path) as temporary:
        temporary.write_text(json_text(value), encoding="utf-8", newline="")
