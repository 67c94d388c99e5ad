"""Child processes that answer one question at a time, so that contenders can take turns."""

import importlib
import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import numpy as np

from tokenizer.parallel.workers import interrupts_held

Calls = Mapping[str, Callable[..., Any]]
Samples = dict[str, list[float]]


class Unavailable(Exception):
    """A contender cannot run here. The text says why."""


class Failed(Exception):
    """A call ended in an error, or its process ended. The text says how."""


class Child:
    """A process that holds the functions that `make(*arguments)` returned, by name."""

    def __init__(self, make: Callable[..., Calls], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        with interrupts_held():  # Ctrl-C reaches this process too, and this process ends the child
            self._process.start()
        theirs.close()

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call a function in the process and return its result.

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
        """End the process. A waiting process ends by itself; a busy one is killed."""
        self._pipe.close()
        self._process.join(2)
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection, make: Callable[..., Calls], arguments: tuple[Any, ...]) -> None:
    calls: Calls | None = None
    with suppress(EOFError, ConnectionError):  # until the parent closes the pipe
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


def time_runs(run: Callable[[], Any], count: int) -> Samples:
    """Call `run` `count` times, and return the wall-clock and the processor seconds of each call."""
    seconds, cpu_seconds = [], []
    for _ in range(count):
        start, cpu_start = time.perf_counter(), time.process_time()
        run()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds}


def take_turns(
    contenders: Mapping[str, Callable[[int], Samples]], rounds: int, round_seconds: float, label: str
) -> dict[str, list[Samples]]:
    """Measure the contenders round by round, one at a time, and return the samples of each round.

    The order is reversed after each round, so that no contender always runs first.

    Args:
        contenders: Functions that run a contender `count` times in a row.
        round_seconds: How long one turn should take at least, judged by two unrecorded runs.
        label: What the progress line says is being measured.
    """
    counts = {
        name: min(200, 1 + int(round_seconds / median(run(2)["seconds"]))) for name, run in contenders.items()
    }
    samples: dict[str, list[Samples]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in list(contenders) if number % 2 else reversed([*contenders]):
            show_progress(f"{label}: round {number + 1} of {rounds}, {name}")
            samples[name].append(contenders[name](counts[name]))
    show_progress("")
    return samples


def show_progress(text: str) -> None:
    """Overwrite the terminal's last line with what is being measured."""
    if sys.stderr.isatty():
        print(f"\r{text:100}\r", end="", file=sys.stderr, flush=True)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(low), float(middle), float(high)


def resolve(spec: str) -> Callable[..., Any]:
    """Import the function that `module:function` names. A module alone means its function `make`."""
    module, _, function = spec.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function or "make")
    assert callable(found)
    return found
