"""Processes that tests start, as `python -m MODULE WORDS` would.

They are forked from a process that has imported both frameworks, which takes longer than most of their runs.
"""

import atexit
import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.source import ROOT

SECONDS = 900.0
"""Longer than anything in these tests takes on a busy machine."""
if sys.platform == "win32":
    _FORKS = multiprocessing.get_context("spawn")
else:
    _FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.lm.imports"])


class Ended(NamedTuple):
    """What a process came to."""

    code: int
    """Exit code; of a process that a signal has ended, minus the signal's number."""
    out: str
    err: str


class Process:
    """A process that runs a module. Its input is given at the start, and its output goes to files."""

    def __init__(
        self, module: str, *words: object, said: str = "", environment: Mapping[str, object] | None = None
    ) -> None:
        """
        Args:
            said: Standard input.
            environment: Variables to set, in addition to those of this process. Default: none.
        """
        self._folder = TemporaryDirectory(ignore_cleanup_errors=True)
        self._files = [Path(self._folder.name) / name for name in ("in", "out", "err")]
        self._files[0].write_text(said)
        variables = os.environ | {name: str(value) for name, value in (environment or {}).items()}
        arguments = (self._files, variables, module, [str(word) for word in words])
        self._process = _FORKS.Process(target=run, args=arguments, daemon=True)
        self._process.start()

    def runs(self) -> bool:
        """Return whether the process has not ended."""
        return self._process.is_alive()

    @property
    def pid(self) -> int:
        """Number of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process if it has not ended, and wait for its end."""
        self._process.kill()
        self._process.join()
        self._folder.cleanup()

    def wait(self, seconds: float = SECONDS) -> Ended:
        """Wait until the process ends. Kill it if that takes longer."""
        self._process.join(seconds)
        ended = not self.runs()
        out, err = (path.read_text() if path.exists() else "" for path in self._files[1:])
        self.kill()
        assert ended, f"still running after {seconds} s: {out}{err}"
        assert self._process.exitcode is not None
        return Ended(self._process.exitcode, out, err)


@contextmanager
def processes(*started: Process) -> Iterator[None]:
    """Kill processes that have not ended inside."""
    try:
        yield
    finally:
        for process in started:
            process.kill()


def wait_for(path: Path, *started: Process) -> None:
    """Wait until a file exists. None of the processes may end before."""
    while not path.exists():
        for process in started:
            assert process.runs(), process.wait()
        time.sleep(0.001)


def run(files: Sequence[Path], variables: dict[str, str], module: str, words: list[str]) -> None:
    """Become a process that runs a module."""
    for number, (path, flags) in enumerate(
        zip(files, (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT] * 2), strict=True)
    ):
        descriptor = os.open(path, flags)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = os.fdopen(0, closefd=False)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(ROOT)
    sys.argv = [module, *words]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()
