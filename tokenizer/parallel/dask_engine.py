"""Run the tasks of `workers` on a Dask cluster: on many machines. If a machine dies, its tasks run again.

Each task is a pure function of its worker's setup and itself: a file and a range of bytes. So the results are
those of one process. Files must have the same address everywhere: on a shared disk, or anywhere fsspec reaches.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizer.errors import InputError
from tokenizer.machine import num_processors
from tokenizer.parallel.workers import Result, Task, Worker

if TYPE_CHECKING:
    from distributed import Client

RANGE = 1 << 26  # bytes; a task takes about a second, and making its worker a small part of it
AHEAD = 2  # tasks for each thread of the cluster at a time
FAN_IN = 8  # results that are added up at a time


@contextmanager
def connect(scheduler: str | None) -> "Iterator[Client]":
    """Yield a client of the cluster at that address, or if it is None, of a temporary one on this machine.

    Raises:
        InputError: Dask is not installed, or no cluster answers.
    """
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise InputError("Dask is not installed; install it with: pip install 'twinlm[dask]'") from None
    if scheduler is None:
        client = Client(n_workers=num_processors(), threads_per_worker=1, dashboard_address=None)
    else:
        try:
            client = Client(scheduler)
        except (OSError, ValueError) as error:
            raise InputError(
                f"no Dask scheduler answers at {scheduler}: {error}; start one with: dask scheduler"
            ) from None
    with client:
        yield client


def divide(paths: list[str], num_bytes: int, client: "Client") -> tuple[list[str], int]:
    """Return paths that are valid on all machines, and how many bytes to give to a worker at a time."""
    paths = [path if "://" in path else str(Path(path).absolute()) for path in paths]
    return paths, min(RANGE, 1 + num_bytes // (4 * _num_threads(client)))


def map_tasks(worker: Worker, tasks: Iterable[Task], client: "Client") -> Generator[Result, None, None]:
    """Yield the result of each task, in order. The number of tasks on the cluster is bounded.

    Raises:
        InputError: the error of the first task in which a worker raised one.
        distributed.KilledWorker: a task's machine died repeatedly.
    """
    setup = worker.setup()
    waiting: deque[Any] = deque()
    for task in tasks:
        waiting.append(client.submit(run_alone, type(worker), setup, task, pure=False))
        if len(waiting) >= AHEAD * _num_threads(client):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def reduce_tasks(
    worker: Worker, tasks: Iterable[Task], add: Callable[[list[Result]], Result], client: "Client"
) -> Result:
    """Add up the results of all tasks with `add`, on the cluster: a few results at a time, then their sums.

    Raises:
        As in `map_tasks`, but the error may come from any task.
    """
    setup = worker.setup()
    results = [client.submit(run_alone, type(worker), setup, task, pure=False) for task in tasks]
    level = 0
    while len(results) > 1:
        level += 1
        parts = [results[i : i + FAN_IN] for i in range(0, len(results), FAN_IN)]
        # Sums first: they free the memory of their parts, unless this list still asks for them.
        results = [client.submit(add, part, pure=False, priority=level) for part in parts]
    return results[0].result()


def run_alone(worker: type[Worker], setup: dict[str, Any], task: Task) -> Result:
    """Return all results of a new worker that runs one task."""
    new = worker.from_setup(setup)
    return [*new.run(task), *new.finish()]


def _num_threads(client: "Client") -> int:
    """Return how many tasks the cluster runs at a time, at least 1: its machines may not have started yet."""
    return max(1, sum(client.nthreads().values()))
