"""Run tasks in several processes.

`multiprocessing` will not do: its spawned processes import the caller's main module again, which may import a
framework or start the work once more. Here a worker is a fresh Python that imports this package only. It receives
tasks as lines of JSON, and sends results as JSON and the raw bytes of arrays.
"""

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from io import BufferedWriter, FileIO
from queue import Empty, Queue, SimpleQueue
from threading import Thread
from typing import Any, Protocol, Self, cast

import numpy as np

from tokenizer.errors import InputError

AHEAD = 2  # tasks that another process has at a time, so that it is busy while this one runs its own
MAX_WORKERS = 1024  # more than any machine has processors; each process takes memory
MAX_WAITING = 16  # results that wait for earlier ones

Task = Sequence[Any]  # JSON can express its items
Result = list[np.ndarray]


class Worker(Protocol):
    """What runs tasks, in this process or another."""

    def setup(self) -> dict[str, Any]:
        """Return what `from_setup` needs to make an equal worker elsewhere. JSON can express it."""

    @classmethod
    def from_setup(cls, setup: dict[str, Any]) -> Self:
        """Make a worker that has run no task yet."""

    def run(self, task: Task) -> Result:
        """Return the result of a task."""

    def finish(self) -> Result:
        """Return the last result, after all tasks."""


def run_tasks(worker: Worker, tasks: Iterable[Task], num_workers: int) -> Generator[Result, None, None]:
    """Yield the result of each task, in order; then the last result of each worker that ran a task.

    The first worker is this process, which begins at once. The others join in when they have started.

    Raises:
        InputError: the error of the first task in which a worker raised one.
        RuntimeError: a worker raised another error, or died.
    """
    numbered = enumerate(tasks)
    outcomes: dict[int, Result | InputError] = {}  # that wait for earlier ones
    num_yielded = 0
    children: list[_Child] = []
    try:
        replied: SimpleQueue[_Child] = SimpleQueue()
        children.extend(_Child(type(worker), replied) for _ in range(num_workers - 1))
        setup = worker.setup() if children else {}  # while they start
        while True:
            for child in children:
                child.take(numbered)
            # Wait for a slow process instead of collecting many results that come after its own.
            own = next(numbered, None) if len(outcomes) < MAX_WAITING else None
            if own:
                number, task = own
                try:
                    outcomes[number] = worker.run(task)
                except InputError as error:  # there may be another in a task before this one
                    outcomes[number] = error
            elif not any(child.numbers for child in children):
                break
            for child in _that_replied(replied, wait=not own):
                outcomes |= child.receive(setup)
            while num_yielded in outcomes:
                yield _result(outcomes.pop(num_yielded))
                num_yielded += 1
        for child in children:
            yield from child.finish()
        yield worker.finish()
    finally:
        for child in children:
            child.end()


def _result(outcome: Result | InputError) -> Result:
    if isinstance(outcome, InputError):
        raise outcome
    return outcome


class _Child:
    """A worker in another process."""

    def __init__(self, worker: type[Worker], replied: "SimpleQueue[_Child]") -> None:
        """Start the process. `replied` gets this child for each reply that it can `receive`."""
        self.numbers: deque[int] = deque()  # of the tasks it was given, in order
        self._has_started = self._has_run = False
        # The child uses this process's search path, so that it works from a checkout, installed or not.
        arguments = f"{worker.__module__!r}, {worker.__name__!r}"
        imports = f"import sys; sys.path[:] = {sys.path!r}; from tokenizer.parallel.workers import serve"
        with interrupts_held():
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"{imports}; serve({arguments})"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,  # arrays go straight into their memory
                pipesize=1 << 20,  # Linux's largest
                env={
                    **os.environ,
                    "OPENBLAS_NUM_THREADS": "1",
                },  # NumPy starts sooner, and needs no more here
            )
        assert self._process.stdin
        assert self._process.stdout
        self._stdin = BufferedWriter(cast(FileIO, self._process.stdin))
        self._stdout = cast(FileIO, self._process.stdout)
        self._replies: SimpleQueue[Result | Exception] = SimpleQueue()
        # A thread, since not every system can wait for one of several pipes.
        self._reader = Thread(target=self._read_all, args=(replied,), daemon=True)
        self._reader.start()

    def take(self, tasks: Iterator[tuple[int, Task]]) -> None:
        """Take numbered tasks until the child has AHEAD of them; take none while the child starts."""
        while self._has_started and len(self.numbers) < AHEAD and (numbered := next(tasks, None)):
            self.numbers.append(numbered[0])
            self._has_run = True
            self._send(numbered[1])

    def receive(self, setup: dict[str, Any]) -> dict[int, Result | InputError]:
        """Wait for the result of the child's oldest task, and return it by the task's number.

        If the child has just started, send its setup and return nothing.
        """
        reply = self._reply()
        if self._has_started:
            return {self.numbers.popleft(): reply}
        self._has_started = True
        self._send(setup)
        return {}

    def finish(self) -> Iterator[Result]:
        """Yield the last result, if the child ran a task."""
        if self._has_run:
            self._send(None)
            yield _result(self._reply())

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()
        with suppress(OSError):  # what was not sent to a dead process
            self._stdin.close()
        self._reader.join()
        self._stdout.close()

    def _send(self, content: Any) -> None:
        try:
            self._stdin.write(_line(content))
            self._stdin.flush()
        except OSError:
            raise self._death() from None

    def _reply(self) -> Result | InputError:
        """Wait for the oldest reply and return it."""
        reply = self._replies.get()
        if isinstance(reply, list | InputError):
            return reply
        raise reply

    def _read_all(self, replied: "SimpleQueue[_Child]") -> None:
        """Read replies until there are no more. The last one is the error that says why."""
        reply: Result | Exception = []
        while isinstance(reply, list | InputError):
            try:
                reply = self._read()
            except Exception as error:
                reply = error
            self._replies.put(reply)
            replied.put(self)

    def _read(self) -> Result | InputError:
        reply = self._stdout.readline()
        if not reply.endswith(b"\n"):
            raise self._death()
        match json.loads(reply):
            case {"arrays": arrays}:
                return [self._read_array(dtype, length) for dtype, length in arrays]
            case {"type": "InputError", "error": message}:
                return InputError(message)
            case {"type": name, "error": message}:
                raise RuntimeError(f"a worker process failed with {name}: {message}")
        raise AssertionError(reply)

    def _read_array(self, dtype: str, length: int) -> np.ndarray:
        array = np.empty(length, dtype)
        rest = memoryview(array.view(np.uint8))  # type: ignore[arg-type]
        while rest:
            count = self._stdout.readinto(rest)
            if not count:
                raise self._death()
            rest = rest[count:]
        return array

    def _death(self) -> RuntimeError:
        code = self._process.wait()
        return RuntimeError(
            f"a worker process ended before its work was done (exit code {code}); "
            f"if the machine ran out of memory, use fewer workers"
        )


def _that_replied(replied: "SimpleQueue[_Child]", wait: bool) -> Iterator[_Child]:
    """Yield the children with a reply to receive; wait until one has."""
    if wait:
        yield replied.get()
    with suppress(Empty):
        while True:
            yield replied.get_nowait()


def _line(content: Any) -> bytes:
    return json.dumps(content).encode() + b"\n"


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Block Ctrl-C for a while. A process that starts in this context never receives Ctrl-C, even while it loads.

    A terminal sends Ctrl-C to all its processes, and the parent handles it. Windows cannot block it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(module: str, name: str) -> None:
    """Run a worker of that class: answer each task from standard input, until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for Windows, which cannot block it
    stdin, stdout = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed by accident must not mix with the results
    worker_class: type[Worker] = getattr(import_module(module), name)
    stdout.write(_line({"arrays": []}))
    stdout.flush()
    worker = worker_class.from_setup(json.loads(stdin.readline()))
    replies: Queue[list[Any]] = Queue(1)
    # A thread writes, so the next task begins while the parent runs its own and reads nothing.
    Thread(target=_write, args=(replies, stdout), daemon=True).start()
    for line in stdin:
        task = json.loads(line)
        try:
            result = worker.finish() if task is None else worker.run(task)
            reply: dict[str, Any] = {"arrays": [(array.dtype.str, len(array)) for array in result]}
        except Exception as error:
            result, reply = [], {"type": type(error).__name__, "error": str(error)}
        replies.put([_line(reply), *(np.ascontiguousarray(array).data for array in result)])


def _write(replies: "Queue[list[Any]]", stdout: BufferedWriter) -> None:
    """Write each reply. If the parent is gone, end this process."""
    try:
        while True:
            stdout.writelines(replies.get())
            stdout.flush()
    except OSError:
        os._exit(1)
