"""What outlives a process in the user's cache directory: compiled programs, and choices that were made by timing.

So the same command compiles once, times once, and has the same bits.
"""

import atexit
import contextlib
import functools
import os
import sys
import zlib
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

import lm
from lm.files import read_object, write_json
from lm.machine import processor_id
from tokenizer.errors import InputError
from tokenizer.machine import num_processors


@functools.cache
def program_folder(base: str | None, bounded: bool = True) -> str | None:
    """The folder for JAX's programs of this processor and number of threads, tidied up.

    A program holds instructions of the processor and is divided among the threads that it was compiled for, and JAX
    tells neither apart.

    Args:
        base: The folder above it; one in the user's cache directory if not given.
        bounded: Whether JAX is to remove programs, and so notes their use.

    Returns:
        None where programs cannot be kept, which is told on stderr.
    """
    if base and "://" in base:  # storage that only JAX can reach
        return base
    # NPROC is what XLA reads.
    threads = os.environ.get("NPROC") or num_processors()
    above = Path(base) if base else platformdirs.user_cache_path("twinlm") / "jax"
    folder = above / f"{processor_id()}-{threads}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what lies there, JAX runs
        with FileLock(folder / ".lockfile", timeout=10):  # JAX's own
            tidy(folder, bounded)
    except OSError as error:
        print(
            f"lm: warning: {folder} cannot keep compiled programs ({error.strerror or error}), so each command "
            "compiles again; mend it, set JAX_COMPILATION_CACHE_DIR, or give --no-compile-cache",
            file=sys.stderr,
        )
        return None
    return str(folder)


def tidy(folder: Path, bounded: bool = True) -> None:
    """Remove what a crash or a full disk left half written: JAX would neither read nor replace it.

    JAX notes a program's use after it has written the program. Besides, each program is read once.
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
    """Whether a program is all there, by zlib's checksum; JAX takes zstandard, which has none, where it finds it."""
    if program.startswith(b"\x28\xb5\x2f\xfd"):
        return True
    try:
        return bool(zlib.decompress(program))
    except zlib.error:
        return False


@functools.cache
def keep_choices(backend: Any) -> None:
    """Have a backend choose as processes before this one did, and keep what it measures for those after it.

    Without a file that can be read or written, each process measures for itself. So it does under --no-compile-cache.
    """
    if os.environ.get("JAX_ENABLE_COMPILATION_CACHE") == "false":
        return
    version = "-".join((lm.__version__, *backend.versions().values()))
    file = platformdirs.user_cache_path("twinlm") / "choices" / f"{processor_id()}-{version}.json"
    backend.repeat(_read_choices(file))
    atexit.register(_write_choices, file, backend)


def _read_choices(file: Path) -> dict[str, str]:
    try:
        found = read_object(file, "delete it")
    except (OSError, InputError):
        return {}
    return {kind: choice for kind, choice in found.items() if isinstance(choice, str)}


def _write_choices(file: Path, backend: Any) -> None:
    """Add what this process has measured; what another has written meanwhile stays."""
    if measured := backend.choices(only_measured=True):
        with contextlib.suppress(OSError, InputError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, measured | _read_choices(file))
