"""The child process that holds the file under check: started, limited, restarted, ended."""

import contextlib
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from lm.budgets import Dtype
from parity.case import Given
from parity.check.answer import Answer, Failure
from parity.check.child import wire
from parity.check.subjects import Array, Call
from tokenizer.errors import InputError

FOLDER = Path(__file__).parent / "child"
LOAD_SECONDS = 180.0
"""Time limit of the import: the first import of a framework may read gigabytes."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a user's function."""

    name: str
    kind: str
    """As `inspect.Parameter.kind` calls it: "POSITIONAL_OR_KEYWORD"."""
    has_default: bool
    annotation: str
    """Empty if there is none."""


@dataclass(frozen=True)
class Function:
    """A function of the user's file."""

    is_own: bool
    """Whether the file's package defines the function, and does not import it from another."""
    parameters: tuple[Parameter, ...] | None
    """None if Python cannot tell them."""

    @property
    def names(self) -> list[str]:
        """The parameters' names."""
        return [p.name for p in self.parameters or () if p.kind != "POSITIONAL_ONLY"]


@dataclass(frozen=True)
class Limits:
    """What one call may use."""

    seconds: float = 30.0
    memory: int = 4 << 30
    """In bytes, of resident memory."""


DEFAULT_LIMITS = Limits()


class Lost(Exception):
    """The child ended, or had to be ended."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Child:
    """The user's file, imported in a process of its own. A context manager: the process ends with it."""

    def __init__(
        self, target: str, names: Sequence[str], python: str = sys.executable, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        """
        Args:
            target: Python file, or name of a module.
            names: Functions to look for.
        """
        self.target, self.names, self.python, self.limits = target, names, python, limits
        self.functions: dict[str, Function] = {}
        """The functions that the file has, by name."""
        self._process: subprocess.Popen[bytes] | None = None
        self._replies: queue.Queue[wire.Message | None] = queue.Queue()

    def __enter__(self) -> Self:
        self._printed = tempfile.TemporaryFile("a+b")  # closed by __exit__
        try:
            self._start()
        except Lost as lost:
            self.__exit__(None, None, None)
            raise InputError(f"{self.target} cannot be imported: {lost}") from None
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._printed.close()

    @property
    def process_id(self) -> int | None:
        """The process's number; None if it was lost, until the next request starts it again."""
        return self._process.pid if self._process else None

    def call(
        self,
        call: Call,
        given: Given,
        dtypes: Mapping[str, Dtype],
        cotangent: np.ndarray | None = None,
        wanted: Sequence[str] = (),
    ) -> Answer:
        """Call a function of the file.

        Args:
            dtypes: Types of the arrays with gradients.
            wanted: Arrays with respect to which sum(cotangent * output) is differentiated.
        """
        arguments = {key: _described(value) for key, value in call.arguments(given).items()}
        positional, named = self._bound(call, arguments)
        header = {
            "do": "call",
            "function": call.function,
            "through": call.through,
            "of_course": call.function.startswith(("run_", "get_")),
            "positional": positional,
            "named": named,
            "dtypes": dict(dtypes),
            "wanted": list(wanted),
        }
        arrays = {**given.arrays, **given.constants}
        if cotangent is not None:
            arrays["cotangent"] = cotangent
        try:
            reply, out = self.request(header, arrays, self.limits.seconds)
        except Lost as lost:
            return Answer(failure=lost.failure)
        return Answer(
            output=out["output"],
            gradients={name: out.get(f"gradient.{name}") for name in reply["gradients"]},
            dtype=reply["dtype"],
            framework=reply["framework"],
            changed=tuple(reply["changed"]),
            notes=tuple(reply["notes"]),
            seconds=reply["seconds"],
        )

    def run(self, handler: str, arguments: Mapping[str, Any], **arrays: np.ndarray) -> Any:
        """Return what a function of `child.objects.HANDLERS` makes of the file's module and these arguments.

        Raises:
            Lost: it failed; the exception has the Failure.
        """
        header = {"do": "run", "handler": handler, "arguments": dict(arguments)}
        return self.request(header, arrays, self.limits.seconds)[0]["result"]

    def request(
        self, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray], seconds: float
    ) -> wire.Message:
        """Send a request and return the reply. A child that was lost is started again first.

        Raises:
            Lost: the request failed, or ended the child.
        """
        if self._process is None:
            self._start()
        process = self._process
        self._printed_before = self._printed.seek(0, os.SEEK_END)
        assert process is not None
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # a child that has ended; the reply says so
            wire.write(process.stdin, dict(header), dict(arrays))  # type: ignore[arg-type]
        reply, out = self._reply(process, seconds)
        if "failure" in reply:
            raise Lost(Failure(*reply["failure"]))
        return reply, out

    def _start(self) -> None:
        environment = {
            "OMP_NUM_THREADS": "1",  # enough for small arrays
            "CUDA_VISIBLE_DEVICES": "",  # a GPU may round products to 10 bits
            "JAX_PLATFORMS": "cpu",
        }
        try:
            process = subprocess.Popen(
                [self.python, str(FOLDER), self.target],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._printed,
                env=os.environ | environment,
                start_new_session=True,
            )
        except OSError as error:
            raise InputError(
                f"{self.python} does not run ({error.strerror}): name a Python with --python"
            ) from None
        self._process, self._replies = process, queue.Queue()
        threading.Thread(target=_receive, args=(process, self._replies), daemon=True).start()
        loaded, _ = self.request({"do": "load", "names": list(self.names)}, {}, LOAD_SECONDS)
        self.functions = {name: _function(**described) for name, described in loaded["functions"].items()}

    def _reply(self, process: subprocess.Popen[bytes], seconds: float) -> wire.Message:
        """Wait for a reply within the limits."""
        until = time.monotonic() + seconds
        while True:
            try:
                reply = self._replies.get(timeout=0.05)
            except queue.Empty:
                if time.monotonic() > until:
                    self._end()
                    message = f"no result after {seconds:g} s (the limit is --time-limit)"
                    raise Lost(Failure("time", message)) from None
                if _resident(process.pid) > self.limits.memory:
                    self._end()
                    message = f"it used more than {self.limits.memory / 2**30:.3g} GiB (the limit is --memory-limit)"
                    raise Lost(Failure("memory", message)) from None
                continue
            if reply is not None:
                return reply
            code = process.wait()
            self._end()
            ended = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise Lost(Failure("crashed", f"the process {ended}{self._last_words()}"))

    def _last_words(self) -> str:
        """Return the last line that the child printed in this request."""
        size = self._printed.seek(0, os.SEEK_END)
        self._printed.seek(max(self._printed_before, size - 2000))
        lines = self._printed.read().decode("utf-8", "replace").strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, 9)  # with the processes that it has started
            else:
                process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def _bound(self, call: Call, arguments: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return positional and named arguments: by name if the function has these names, otherwise in order."""
        names = {name.lower(): name for name in self.functions[call.function].names}
        if not call.through and {name.lower() for name in arguments} <= names.keys():
            return [], {names[name.lower()]: value for name, value in arguments.items()}
        return list(arguments.values()), {}


def _function(is_own: bool, parameters: list[Any] | None) -> Function:
    return Function(is_own, None if parameters is None else tuple(Parameter(*p) for p in parameters))


def _receive(process: subprocess.Popen[bytes], replies: queue.Queue[wire.Message | None]) -> None:
    message: wire.Message | None = None
    while True:
        try:
            message = wire.read(process.stdout)  # type: ignore[arg-type]
        except (OSError, ValueError):
            message = None
        replies.put(message)
        if message is None:
            return


def _resident(pid: int) -> int:
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _described(value: Any) -> Any:
    """Return an argument as JSON holds it."""
    if isinstance(value, Array):
        return {"array": value.name, "rows": value.rows, "inverted": value.inverted}
    if isinstance(value, dict):
        return {"dict": {key: _described(item) for key, item in value.items()}}
    return [_described(item) for item in value] if isinstance(value, list | tuple) else value
