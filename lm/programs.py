"""What the user's cache directory keeps between processes: compiled programs, and choices made by measuring times.

So a command compiles once, measures once, and gives the same bits each time.
"""

import atexit
import contextlib
import functools
import os
import sys
import zlib
from pathlib import Path
from typing import Any

from filelock import FileLock

import lm
from lm.files import read_object, write_json
from lm.machine import processor_id
from tokenizer.errors import InputError
from tokenizer.machine import num_processors


@functools.cache
def program_folder(base: str | None, bounded: bool = True) -> str | None:
    """Return the folder for JAX's compiled programs, for this processor and number of threads, and tidy it.

    A program is compiled for the instructions of a processor and for a number of threads. JAX checks neither when it
    loads one.

    Args:
        base: The parent folder. If not given: a folder in the user's cache directory.
        bounded: Whether JAX limits the folder's size. It then writes a file for each program's last use.

    Returns:
        None if programs cannot be kept; a warning on stderr says why.
    """
    if base and "://" in base:  # storage that only JAX can reach
        return base
    # NPROC is what XLA reads.
    threads = os.environ.get("NPROC") or num_processors()
    above = Path(base) if base else _user_cache() / "jax"
    folder = above / f"{processor_id()}-{threads}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # private, because JAX runs what lies there
        with FileLock(folder / ".lockfile", timeout=10):  # JAX's own lock
            tidy(folder, bounded)
    except OSError as error:
        print(
            f"lm: warning: {folder} cannot keep compiled programs ({error.strerror or error}), so each command "
            "compiles again; make it writable, set JAX_COMPILATION_CACHE_DIR, or give --no-compile-cache",
            file=sys.stderr,
        )
        return None
    return str(folder)


def _user_cache() -> Path:
    import platformdirs  # imported here: a process that keeps nothing does not need it

    return platformdirs.user_cache_path("twinlm")


def tidy(folder: Path, bounded: bool = True) -> None:
    """Remove programs that a crash or a full disk left half written. JAX would neither read nor replace them.

    JAX writes the file for a program's last use after the program, so a program without one is torn. In addition, each
    program is read once, to check it.
    """
    checked = folder / "checked"
    since = checked.stat().st_mtime if checked.exists() else 0.0
    for program in folder.glob("*-cache"):
        used = folder / f"{program.name.removesuffix('-cache')}-atime"
        is_torn = bounded and not used.exists()
        if is_torn or (program.stat().st_mtime >= since and not _is_whole(program.read_bytes())):
            program.unlink()
            used.unlink(missing_ok=True)
    checked.touch()


def _is_whole(program: bytes) -> bool:
    """Return whether a program is complete, by zlib's checksum. JAX uses zstandard, which has none, if installed."""
    if program.startswith(b"\x28\xb5\x2f\xfd"):
        return True
    try:
        return bool(zlib.decompress(program))
    except zlib.error:
        return False


@functools.cache
def keep_choices(backend: Any) -> None:
    """Let a backend repeat the choices of earlier processes, and keep what it measures for later ones.

    If the file cannot be read or written, or with --no-compile-cache, each process measures for itself.
    """
    if os.environ.get("JAX_ENABLE_COMPILATION_CACHE") == "false":
        return
    version = "-".join((lm.__version__, *backend.versions().values()))
    file = _user_cache() / "choices" / f"{processor_id()}-{version}.json"
    backend.repeat(_read_choices(file))
    atexit.register(_write_choices, file, backend)


def _read_choices(file: Path) -> dict[str, str]:
    try:
        found = read_object(file, "delete it")
    except (OSError, InputError):
        return {}
    return {kind: choice for kind, choice in found.items() if isinstance(choice, str)}


def _write_choices(file: Path, backend: Any) -> None:
    """Add what this process has measured. Choices that another process has written meanwhile stay."""
    if measured := backend.choices(only_measured=True):
        with contextlib.suppress(OSError, InputError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, measured | _read_choices(file))
