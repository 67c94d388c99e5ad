"""Signals that stop a run between two steps."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stop_signals(speaks: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGINT, SIGTERM or SIGHUP has come, so that no step is left half done.

    SIGHUP says that the terminal has gone. A user who started the command with nohup wants it to keep training.

    Args:
        speaks: Whether this process announces the stop.
    """
    received: list[int] = []

    def note(number: int, _: object) -> None:
        if not received and speaks():
            # print is not reentrant, and the signal may have interrupted a print.
            with contextlib.suppress(OSError):
                os.write(2, f"\n{signal.Signals(number).name}: will save and end after this step\n".encode())
        received.append(number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {s: signal.signal(s, note) for s in numbers}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is note:
                signal.signal(number, handler)
