"""What a program shows, and how it ends: nothing that happens to a terminal, a pipe or a log ends its work."""

import atexit
import codecs
import contextlib
import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TextIO

_SPELLED = "twinlm.spelled"
codecs.register_error(_SPELLED, lambda e: (json.dumps(e.object[e.start : e.end])[1:-1], e.end))  # type: ignore


@functools.cache
def _nowhere() -> TextIO:
    stream = open(os.devnull, "w", encoding="utf-8", newline="")  # noqa: SIM115  # for as long as the process lives
    atexit.register(stream.close)
    return stream


class Shown:
    """A text stream that takes any text, and can be written to whatever has become of it.

    Characters that its encoding lacks are spelled as JSON spells them, so that JSON stays JSON. What cannot be
    written is forgotten, unless it is a program's result.
    """

    def __init__(self, stream: TextIO | None, result: bool = False) -> None:
        """
        Args:
            stream: None, as Python has it for a standard file that is closed, is nowhere.
            result: Whether a failure is an error, of a file that is called standard output.
        """
        self._stream: Any = _nowhere() if stream is None else stream
        self._result = result

    def write(self, text: str) -> int:
        """Write as much as can be written, which counts as all of it."""
        with self._forgiven():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self._stream.write(text.encode(encoding, _SPELLED).decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Send what was written."""
        with self._forgiven():
            self._stream.flush()

    @contextlib.contextmanager
    def _forgiven(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:  # a slow reader, who misses this
            if self._result:
                raise
        except OSError as error:
            if self._result:
                error.filename = error.filename or "standard output"
                raise
            self.silence()
        except ValueError:  # closed
            if self._result:
                raise

    def silence(self) -> None:
        """Send what is written from now on nowhere, and what the stream still holds too."""
        if isinstance(self._stream, Shown):
            self._stream.silence()
        else:
            with contextlib.suppress(OSError, AttributeError):
                os.dup2(_nowhere().fileno(), self._stream.fileno())
            self._stream = _nowhere()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def show(text: str, end: str = "\n") -> None:
    """Print what is no result, at once. Where nobody can read it, the program goes on."""
    print(text, end=end, file=Shown(sys.stdout), flush=True)


def run_program(name: str, work: Callable[[], int | None]) -> int:
    """Do the work of a program and return its exit code: the work's own, or 0 if it returns none.

    What the user got wrong (InputError) and what the system refuses (OSError) is one line on standard error, after the
    program's name, and 2. Ctrl-C is 130. A reader who has seen enough of the results, such as head, ends it with 0.
    """
    out: Any = Shown(sys.stdout, result=True)
    errors: Any = Shown(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), _interrupts() as interrupts:
        try:
            code = work() or 0
            out.flush()
            return code
        except KeyboardInterrupt:
            return 130
        except Exception as error:
            if interrupts:  # modules that are interrupted while they load may raise anything
                return 130
            if isinstance(error, BrokenPipeError):
                return 0
            message = _message(error)
            if message is None:
                raise
        finally:
            # Python flushes again as it ends, and would have more to say of what cannot be written.
            Shown(out).flush()
        print(f"{name}: {' '.join(message.split())}", file=errors)
        return 2


def _message(error: Exception) -> str | None:
    """What to tell of an error; None of one that is a fault of the program."""
    from tokenizer.errors import InputError

    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError):
        return (
            f"{error.filename}: {error.strerror or error}" if error.filename else error.strerror or str(error)
        )
    return None


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Give a list that each Ctrl-C is noted in, beside its KeyboardInterrupt."""
    noted: list[int] = []

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        # CPython takes one that it met inside an exec, such as those of dataclasses, for unhandled, and would end by
        # the signal whatever has become of it; another exec clears that.
        exec("")
        if ours and signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def open_standard_files() -> None:
    """Open those of the three standard files that are closed, as nowhere.

    The next file that is opened would take the place of one, and get what others print. To be called first.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8", newline="")  # noqa: SIM115  # for as long as the process lives
