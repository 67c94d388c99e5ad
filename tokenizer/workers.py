"""Run tasks in several processes.

Not `multiprocessing`: its spawned processes import the caller's main module again, which may import a
framework or start the work once more. Here a worker is a fresh Python that imports this package only; tasks
go in as lines of JSON, results come out as JSON and the raw bytes of arrays.
"""

import json
import os
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import IO, Any, Protocol

import numpy as np

from tokenizer.errors import InputError

Task = Sequence[Any]  # of what JSON can express
Result = list[np.ndarray]


class Worker(Protocol):
    """What runs tasks, in this process or another; made from a dict that JSON can express."""

    def __init__(self, setup: dict[str, Any]) -> None: ...

    def run(self, task: Task) -> Result:
        """Return the result of a task."""

    def finish(self) -> Result:
        """Return what is left to say after the last task."""


def default_num_workers() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(
    worker: type[Worker], setup: dict[str, Any], tasks: Iterable[Task], num_workers: int
) -> Iterator[Result]:
    """Yield the result of each task, in order; then what each worker has to say at the end.

    With one worker, all happens in this process.

    Raises:
        InputError: a worker raised it.
        RuntimeError: a worker raised something else, or died.
    """
    if num_workers <= 1:
        local = worker(setup)
        for task in tasks:
            yield local.run(task)
        yield local.finish()
        return
    processes = [_Process(worker, setup) for _ in range(num_workers)]
    idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
    for process in processes:
        idle.put(process)

    def call(task: Task) -> Result:
        process = idle.get()
        try:
            return process.call(task)
        finally:
            idle.put(process)  # a dead one, too: whoever gets it fails at once instead of waiting

    threads = ThreadPoolExecutor(num_workers)
    try:
        pending: deque[Future[Result]] = deque()
        for task in tasks:
            pending.append(threads.submit(call, task))
            if len(pending) > 2 * num_workers:  # a bound on the results that wait
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
        for process in processes:
            yield process.call(None)
    finally:
        for process in processes:
            process.kill()  # ends the wait of its thread
        threads.shutdown(cancel_futures=True)
        for process in processes:
            process.close()


class _Process:
    """A worker in another process."""

    def __init__(self, worker: type[Worker], setup: dict[str, Any]) -> None:
        # The same search path as here, so that it works from a checkout, installed or not.
        code = f"import sys; sys.path[:] = {sys.path!r}; from tokenizer.workers import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pipesize=1 << 20,  # Linux's largest
        )
        assert self._process.stdin
        assert self._process.stdout
        self._stdin: IO[bytes] = self._process.stdin
        self._stdout: IO[bytes] = self._process.stdout
        self._first_line = _line([worker.__module__, worker.__name__, setup])

    def call(self, task: Task | None) -> Result:
        """Run a task in the process; None is the call of `finish`."""
        try:
            self._stdin.write(self._first_line + _line(task))
            self._stdin.flush()
            self._first_line = b""
            reply = json.loads(self._stdout.readline())
            if "error" in reply:
                raise {"InputError": InputError}.get(reply["type"], RuntimeError)(reply["error"])
            result = [np.empty(length, dtype) for dtype, length in reply["arrays"]]
            for array in result:
                if self._stdout.readinto(array.view(np.uint8)) != array.nbytes:  # type: ignore[attr-defined]
                    raise EOFError
            return result
        except (OSError, EOFError, json.JSONDecodeError):
            code = self._process.wait()
            raise RuntimeError(
                f"a worker process ended before its work was done (exit code {code}); "
                f"if the machine ran out of memory, use fewer workers"
            ) from None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        with suppress(OSError):  # what was not sent to a dead process
            self._stdin.close()
        self._stdout.close()


def _line(content: Any) -> bytes:
    return json.dumps(content).encode() + b"\n"


def serve() -> None:
    """Be a worker: run the tasks that come in, until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; it is the parent's to handle
    stdin, stdout = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed by accident must not mix with the results
    module, name, setup = json.loads(stdin.readline())
    try:
        worker = getattr(__import__(module, fromlist=[name]), name)(setup)
        for line in stdin:
            task = json.loads(line)
            result = worker.finish() if task is None else worker.run(task)
            stdout.write(_line({"arrays": [(array.dtype.str, len(array)) for array in result]}))
            for array in result:
                stdout.write(np.ascontiguousarray(array).data)
            stdout.flush()
    except Exception as error:
        message = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        stdout.write(_line({"error": message, "type": type(error).__name__}))
        stdout.flush()
