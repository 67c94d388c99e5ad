"""Writing so that a reader, or a crash, never sees half a file."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def published(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write a file or folder to, then flush it and rename it there.

    On any error the temporary path is removed and `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path, os.getpid())
    # Process numbers come again, and a killed process cleans nothing up.
    remove(temporary)
    try:
        yield temporary
        for written in (*temporary.iterdir(), temporary) if temporary.is_dir() else (temporary,):
            fsync(written)
        temporary.replace(path)
        fsync(path.parent)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        remove(temporary)
        raise


def temporary_path(path: Path, process: int) -> Path:
    """Where a process writes what `published` will rename to `path`."""
    return path.with_name(f".{path.name}.{process}.tmp")


def start_to_flush(file: IO[bytes], start: int) -> int:
    """Let the disk begin with what was written from byte `start` on; return where that ends.

    So a large file is nearly flushed when it is complete.
    """
    file.flush()
    end = file.tell()
    if hasattr(os, "posix_fadvise"):
        # Linux starts to write what is not on disk yet, and keeps it in memory until that is done.
        os.posix_fadvise(file.fileno(), start, end - start, os.POSIX_FADV_DONTNEED)
    return end


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
