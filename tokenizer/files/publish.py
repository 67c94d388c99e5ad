"""Writing so that a reader, a crash, or another writer never makes half a file, or a mixture of two."""

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
"""Seconds to wait for a lock that somebody may hold only to look whether it is free."""


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Be the only process at work in a folder, which is made if it is missing.

    Look at the folder's contents inside, not before: they may change until then. The lock ends with the process,
    however that ends, and its file with the lock. A folder that was made for nothing is removed.

    Raises:
        InputError: another process is at work there, or it is no folder.
    """
    if not folder.is_dir():
        refuse_existing(folder)
    with _locked(folder / LOCK, f"{folder}: another process is at work in this folder", folder):
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process is at work in a folder, by `alone_in`."""
    if not (folder / LOCK).exists():
        return False
    try:
        with _locked(folder / LOCK, "", folder, patience=0.0):  # a killed process has left it
            return False
    except InputError:
        return True
    except OSError as error:  # a lock of somebody else's, or a disk that nobody can write to
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
                # Another process may just be removing the folder that it has made for nothing.
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
            # While it is held: whoever opened the file before sees that it is gone, and does not take it for the lock.
            with contextlib.suppress(OSError):  # Windows deletes it upon release
                file.unlink()
            lock.release()
        for folder in missing:
            with contextlib.suppress(OSError):  # it holds something now
                folder.rmdir()


def refuse_existing(path: Path) -> None:
    """Refuse a path that holds something already.

    Raises:
        InputError: it does.
    """
    if path.exists() and not (path.is_dir() and all(inside.name == LOCK for inside in path.iterdir())):
        raise InputError(f"{path} exists already: choose another name, or delete it first")


@contextlib.contextmanager
def reserved(path: Path) -> Iterator[None]:
    """Be the only process that makes the file or folder `path`, which is not there yet.

    Raises:
        InputError: it exists, ends in no name, or another process is making it.
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
    # Process numbers come again, and a killed process cleans nothing up.
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
