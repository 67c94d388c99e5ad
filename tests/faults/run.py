"""Apply a fault in a copy of the tree and see whether the tests of its layer notice."""

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.faults.fault import Fault
from tests.source import ROOT

COPIED = (
    "tokenizer",
    "lm",
    "torch_impl",
    "jax_impl",
    "parity",
    "bench",
    "configs",
    "tests",
    "pyproject.toml",
)
_PROGRAMS = tempfile.TemporaryDirectory(prefix="twinlm-faults-", ignore_cleanup_errors=True)
"""What XLA has compiled. Most faults leave most programs as they are."""
_CRASH = re.compile(
    r'File "[^"\n]*tests/faults/[^"\n]*", line \d+, in .*\n'
    r"(?: {4}.*\n)*"  # the line of code, and what marks the place in it
    r"\S.*"
    r"|TypeError: \S*(?:broken|<lambda>)\(\) (?:got|takes|missing) .*"
)
"""The last frame of a traceback and the exception, if the frame is in a fault. Or a call that a fault cannot take."""


def crash(output: str) -> str | None:
    """Return the place and the exception if a replacement itself has crashed, in pytest's process or in another."""
    found = _CRASH.search(output.replace("\\n", "\n"))
    return found and found[0]


@contextmanager
def copied_tree() -> Iterator[Path]:
    """Yield a folder with a copy of the tree, which ends with the block."""
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, Path(folder) / name)
        yield Path(folder)


def run_tests(
    tree: Path, *arguments: str, seconds: float | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run pytest on a copy of the tree.

    Args:
        seconds: Processor time after which each process is ended. If they wait instead, the end comes after a
            twenty times longer time.

    Raises:
        TimeoutError: Time was up.
    """
    limit = [] if seconds is None else ["sh", "-c", f'ulimit -t {math.ceil(seconds)}; exec "$@"', "sh"]
    command = [*limit, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = (
        {"JAX_COMPILATION_CACHE_DIR": _PROGRAMS.name}
        | os.environ
        | environment
        | {
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(tree),  # for the processes that tests start
            "LM_HYPOTHESIS": "faults",  # Hypothesis need not look for the smallest failing case
        }
    )
    with subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, err = process.communicate(timeout=seconds and 20 * seconds)
        except BaseException as e:
            for started in psutil.Process(process.pid).children(recursive=True):
                started.kill()
            process.kill()
            if isinstance(e, subprocess.TimeoutExpired):
                raise TimeoutError from e
            raise
    if seconds is not None and process.returncode == -signal.SIGXCPU:
        raise TimeoutError
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def failed_test(tests: Iterable[str], fault: Fault | None = None) -> str | None:
    """Return pytest's line about the first of the tests that fails in a copy of the tree with the fault in it.

    Raises:
        RuntimeError: The tests ended neither red nor green, or the replacement crashed: that proves nothing.
    """
    with copied_tree() as tree:
        if fault is not None:
            with (tree / fault.file).open("a", encoding="utf-8") as file:
                file.write("\n\nfrom tests.faults.fault import install as _install\n")
                file.write(f"_install({fault.catalogue!r}, {fault.name!r})\n")
        done = run_tests(tree, "-x", "--tb=native", *tests)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{_name(fault)} pytest ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    if where := crash(done.stdout):
        raise RuntimeError(f"{_name(fault)} the replacement itself crashed:\n{where}")
    if done.returncode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) .*", done.stdout, re.MULTILINE)
    return found[0] if found else done.stdout


def _name(fault: Fault | None) -> str:
    return f"'{fault.name}':" if fault else "without a fault:"
