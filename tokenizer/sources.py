"""The text files to read: local ones, and by fsspec those of any storage that it knows."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from tokenizer.errors import InputError

Paths = str | Path | Iterable[str | Path]  # one file or several; what holds :// is read by fsspec


def find_files(paths: Paths, purpose: str) -> tuple[list[str], int]:
    """Return the files that paths and globs stand for, in order, and how many bytes they are together.

    Raises:
        InputError: a file cannot be read, or all are empty.
    """
    given = [paths] if isinstance(paths, str | Path) else paths
    found = [file for path in given for file in _matches(str(path))]
    num_bytes = 0
    for path in found:
        with open_source(path) as file:
            num_bytes += file.seek(0, os.SEEK_END)
    if num_bytes == 0:
        raise InputError(f"{', '.join(found)} is empty; give a file with text to {purpose}")
    return found, num_bytes


def open_source(path: str, read_ahead: int = 1 << 13) -> BinaryIO:
    """Open a file to read bytes of it; from another machine, `read_ahead` more than asked for come at once.

    Raises:
        InputError: it cannot be read.
    """
    try:
        if "://" not in path:
            return open(path, "rb", buffering=0)
        file_system, name = _file_system(path)
        return file_system.open(name, "rb", block_size=read_ahead, cache_type="readahead")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"cannot read {path}: {reason}; give the path of a text file") from None


def _matches(path: str) -> list[str]:
    """Return the files that a glob stands for; the path itself if it is none or nothing matches."""
    if "://" not in path:
        return [path] if os.path.exists(path) else sorted(glob.glob(path)) or [path]
    if not glob.has_magic(path):
        return [path]
    file_system, name = _file_system(path)
    return sorted(map(file_system.unstrip_protocol, file_system.glob(name))) or [path]


def _file_system(path: str) -> Any:
    """Return the file system that an address is in, and the file's name there."""
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise InputError(
            f"reading {path} needs fsspec; install it with: pip install 'twinlm[dask]'"
        ) from None
    try:
        return url_to_fs(path)
    except (ImportError, ValueError) as error:  # this storage needs another package, or does not exist
        raise InputError(f"cannot read {path}: {error}") from None
