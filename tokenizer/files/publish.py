"""Write files so that no crash, reader or other writer ever leaves or sees half a file, or a mixture of two."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from tokenizer.errors import InputError

LOCK = ".lock"
_PATIENCE = 0.2
"""Seconds to wait for a lock: another process may hold it for a moment, to see whether it is free."""


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Be the only process that works in a folder. Make the folder if it is missing.

    Read the folder's contents inside this context: they may change before. The lock is released when the process
    ends, however it ends, and its file is removed with it. A folder that was made and stays empty is removed.

    Raises:
        InputError: another process works there, or the path is not a folder.
    """
    if not folder.is_dir():
        refuse_existing(folder)
    with _locked(folder / LOCK, f"{folder}: another process is at work in this folder", folder):
        yield


def is_locked(folder: Path) -> bool:
    """Return whether a process works in a folder, by `alone_in`."""
    if not (folder / LOCK).exists():
        return False
    try:
        with _locked(folder / LOCK, "", folder, patience=0.0):  # a killed process has left it
            return False
    except InputError:
        return True
    except OSError as error:  # another user's lock, or a read-only disk
        return error.errno != errno.EROFS


@contextlib.contextmanager
def alone_at(path: Path) -> Iterator[None]:
    """Be the only process that writes the file or folder `path`, as `alone_in` is in a folder.

    Raises:
        InputError: another process is writing it.
    """
    lock = Path(os.path.abspath(path))
    with _locked(lock.with_name(f".{lock.name}{LOCK}"), f"{path}: another process is writing it", path):
        yield


@contextlib.contextmanager
def _locked(file: Path, refusal: str, what: Path, patience: float = _PATIENCE) -> Iterator[None]:
    missing = [folder for folder in file.parents if not folder.exists()]
    lock = FileLock(file, timeout=patience, poll_interval=_PATIENCE / 10)
    try:
        try:
            while not lock.is_locked:
                file.parent.mkdir(parents=True, exist_ok=True)
                # Another process may be removing the empty folder that it has made.
                with contextlib.suppress(FileNotFoundError):
                    lock.acquire()
        except Timeout:
            raise InputError(f"{refusal}; wait for it, or end it first") from None
        except OSError as error:
            if error.filename in (None, str(file)):
                error.filename = str(what)
            raise
        yield
    finally:
        if lock.is_locked:
            # Remove the file while it is locked. Whoever opened it before sees that it is gone, and does not use it.
            with contextlib.suppress(OSError):  # Windows deletes it when it is released
                file.unlink()
            lock.release()
        for folder in missing:
            with contextlib.suppress(OSError):  # it holds something now
                folder.rmdir()


def refuse_existing(path: Path) -> None:
    """Refuse a path that exists, unless it is an empty folder.

    Raises:
        InputError: it exists.
    """
    if path.exists() and not (path.is_dir() and all(inside.name == LOCK for inside in path.iterdir())):
        raise InputError(f"{path} exists already: choose another name, or delete it first")


@contextlib.contextmanager
def reserved(path: Path) -> Iterator[None]:
    """Be the only process that makes the file or folder `path`. It must not exist yet.

    Raises:
        InputError: the path exists, has no name at its end, or another process is making it.
    """
    refuse_existing(path)  # before anything is made for the lock
    if path.name in ("", ".."):  # the folder itself is not to be replaced
        raise InputError(f"{path}: gives no name to what is to be written; give one, such as {path / 'new'}")
    with alone_at(path):
        refuse_existing(path)
        yield


@contextlib.contextmanager
def published(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write a file or folder to, then flush it and rename it there.

    On any error the temporary path is removed and `path` stays as it was.
    """
    with published_together(path) as (temporary,):
        yield temporary


@contextlib.contextmanager
def published_together(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Publish several files or folders as `published` does one: none is renamed before all are flushed."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    temporaries = tuple(temporary_path(path, os.getpid()) for path in paths)
    # Process numbers are reused, and a killed process leaves its files behind.
    for temporary in temporaries:
        remove(temporary)
    try:
        yield temporaries
        for temporary in temporaries:
            for written in (*temporary.iterdir(), temporary) if temporary.is_dir() else (temporary,):
                fsync(written)
        for path, temporary in zip(paths, temporaries, strict=True):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()  # an empty one, which Windows does not rename to
            temporary.replace(path)
            fsync(path.parent)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(paths[0])
        for temporary in temporaries:
            remove(temporary)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file, in full or not at all."""
    with published(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def temporary_path(path: Path, process: int) -> Path:
    """Return the path that a process writes to before `published` renames it to `path`."""
    return path.with_name(f".{path.name}.{process}.tmp")


def start_to_flush(file: IO[bytes], start: int) -> int:
    """Start to flush what was written from byte `start` on, and return where that ends.

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
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return  # Windows opens no folders, and keeps its journal of names itself
    descriptor = os.open(
        path, os.O_RDONLY if is_folder else os.O_RDWR
    )  # Windows flushes what it may write to
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
