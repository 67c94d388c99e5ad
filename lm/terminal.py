"""What a program shows, and how it ends. No failure of a terminal, a pipe or a log ends its work."""

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

_AS_JSON = "twinlm.as_json"
codecs.register_error(_AS_JSON, lambda e: (json.dumps(e.object[e.start : e.end])[1:-1], e.end))  # type: ignore


@functools.cache
def _nowhere() -> TextIO:
    stream = open(os.devnull, "w", encoding="utf-8", newline="")  # noqa: SIM115  # for as long as the process lives
    atexit.register(stream.close)
    return stream


class Shown:
    """A text stream that accepts any text, even if the stream below is closed, full or has lost its reader.

    Characters that the encoding lacks are escaped as in JSON, so that JSON stays JSON. Text that cannot be written is
    lost without an error, unless it is a program's result.
    """

    def __init__(self, stream: TextIO | None, result: bool = False) -> None:
        """
        Args:
            stream: Stream to write to. None, Python's value for a closed standard file, discards the text.
            result: Whether a failure is an error. The error calls the stream standard output.
        """
        self._stream: Any = _nowhere() if stream is None else stream
        self._result = result

    def write(self, text: str) -> int:
        """Write what can be written, and return the length of the text as if all were written."""
        with self._tolerate_failure():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self._stream.write(text.encode(encoding, _AS_JSON).decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        with self._tolerate_failure():
            self._stream.flush()

    @contextlib.contextmanager
    def _tolerate_failure(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:  # the reader is slow, and misses this text
            if self._result:
                raise
        except OSError as error:
            if self._result:
                error.filename = error.filename or "standard output"
                raise
            self.silence()
        except ValueError:  # the stream is closed
            if self._result:
                raise

    def silence(self) -> None:
        """Discard what is written from now on, and what the stream has not sent yet."""
        if isinstance(self._stream, Shown):
            self._stream.silence()
        else:
            with contextlib.suppress(OSError, AttributeError):
                os.dup2(_nowhere().fileno(), self._stream.fileno())
            self._stream = _nowhere()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def show(text: str, end: str = "\n") -> None:
    """Print progress or a note, and flush. A failure to print it is ignored."""
    print(text, end=end, file=Shown(sys.stdout), flush=True)


def run_program(name: str, work: Callable[[], int | None]) -> int:
    """Do the work of a program and return its exit code: the work's own, or 0 if it returns none.

    A mistake of the user (InputError) or a refusal of the system (OSError) is printed in one line after the program's
    name, on standard error, and gives 2. Ctrl-C gives 130. If the reader of the results has closed the pipe, as head
    does, the program ends with 0.
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
            if interrupts:  # a module that is interrupted while it loads may raise anything
                return 130
            if isinstance(error, BrokenPipeError):
                return 0
            message = _message(error)
            if message is None:
                raise
        finally:
            # Python flushes again at exit, and would report what cannot be written.
            Shown(out).flush()
        print(f"{name}: {' '.join(message.split())}", file=errors)
        return 2


def _message(error: Exception) -> str | None:
    """Return the message for the user, or None if the error is a fault of the program."""
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
    """Yield a list that records each Ctrl-C. Each one also raises KeyboardInterrupt."""
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
        # If Ctrl-C interrupts an exec, such as those of dataclasses, CPython records it as unhandled, and ends the
        # process by the signal even if it was handled later. Another exec clears the record.
        exec("")
        if ours and signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def open_standard_files() -> None:
    """Open each standard file that is closed on the null device. Call this first.

    Otherwise the next file that is opened would get the number of a standard file, and receive what is printed.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The system gives out the lowest free number, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8", newline="")  # noqa: SIM115  # for as long as the process lives
