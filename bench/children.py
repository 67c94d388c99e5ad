"""Processes that do one thing at a time when asked to, so that contenders can take turns."""

import importlib
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

from tokenizer.parallel.workers import interrupts_held

Calls = Mapping[str, Callable[..., Any]]


class Unavailable(Exception):
    """A contender cannot run here; the text says why."""


class Failed(Exception):
    """What was asked for ended in an error, or the process ended; the text says how."""


class Child:
    """A process that holds what `make(*arguments)` returned: functions by name."""

    def __init__(self, make: Callable[..., Calls], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        with interrupts_held():  # Ctrl-C reaches this process too, which ends that one
            self._process.start()
        theirs.close()

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call a function in the process and wait for what it returns.

        Raises:
            Unavailable, Failed
        """
        try:
            self._pipe.send((name, arguments))
            error, answer = self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join(10)
            raise Failed(f"the process ended with exit code {self._process.exitcode}") from None
        if error:
            raise error(answer)
        return answer

    def close(self) -> None:
        """End the process, of itself if it is waiting to be asked."""
        self._pipe.close()
        self._process.join(2)
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection, make: Callable[..., Calls], arguments: tuple[Any, ...]) -> None:
    calls: Calls | None = None
    with suppress(EOFError, ConnectionError):  # until nobody asks any more
        while True:
            name, given = pipe.recv()
            try:
                calls = make(*arguments) if calls is None else calls
                pipe.send((None, calls[name](*given)))
            except Unavailable as reason:
                pipe.send((Unavailable, str(reason)))
            except Exception as error:
                first_line = next(iter(str(error).strip().splitlines()), "")
                pipe.send((Failed, f"{type(error).__name__}: {first_line}"))


def timed(run: Callable[[], Any], count: int) -> dict[str, list[float]]:
    """Seconds by the clock, and of processor time, that each of `count` runs took."""
    seconds, cpu_seconds = [], []
    for _ in range(count):
        start, cpu_start = time.perf_counter(), time.process_time()
        run()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds}


def take_turns(
    asked: Mapping[str, Callable[[int], dict[str, list[float]]]], rounds: int, at_least: float, say: str
) -> dict[str, list[dict[str, list[float]]]]:
    """Every round's samples of each contender, of which each ran alone, in an order that turns round each time.

    Args:
        asked: Functions that run a contender so many times, one after another.
        at_least: Seconds that a contender's part of a round is to last, by its warm-up.
    """
    counts = {name: min(200, 1 + int(at_least / median(run(2)["seconds"]))) for name, run in asked.items()}
    samples: dict[str, list[dict[str, list[float]]]] = {name: [] for name in asked}
    for number in range(rounds):
        for name in list(asked) if number % 2 else reversed(asked):
            progress(f"{say}: round {number + 1} of {rounds}, {name}")
            samples[name].append(asked[name](counts[name]))
    progress("")
    return samples


def progress(text: str) -> None:
    """Show what is being done, in the terminal's last line."""
    import sys

    if sys.stderr.isatty():
        print(f"\r{text:100}\r", end="", file=sys.stderr, flush=True)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The median between the lower and the upper quartile."""
    import numpy as np

    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(low), float(middle), float(high)


def resolve(spec: str) -> Callable[..., Any]:
    """The function that `module:function` names; `make`, where only a module is named."""
    module, _, function = spec.partition(":")
    found = getattr(importlib.import_module(module), function or "make")
    assert callable(found)
    return found  # type: ignore[no-any-return]
