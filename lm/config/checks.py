"""Checks of single values, each with one line for the user."""

import math
import re
import typing
from typing import Any

from tokenizer.errors import InputError

MAX_SIZE = 2**31 - 1
"""Largest size, batch or number of steps: ids, positions and steps are int32."""
MAX_LAYERS = 10_000
"""Largest number of layers: the names of all their weights are listed before anything is computed."""
MAX_THREADS = 1024
"""More than any machine has cores. Frameworks need memory and time for each thread."""


def require(condition: bool, message: str) -> None:
    """Raise an InputError with this message if the condition is false."""
    if not condition:
        raise InputError(message)


def require_one_of(config: Any, name: str, choices: Any) -> None:
    """Require that a field holds one of the texts of a Literal."""
    value, known = getattr(config, name), typing.get_args(choices)
    require(value in known, f"{name} is {value!r}: give {' or '.join(known)}")


def require_positive(config: Any, *names: str) -> None:
    """Require that fields are finite numbers above 0, and whole numbers at most MAX_SIZE."""
    for name in names:
        value = getattr(config, name)
        require(0 < value < math.inf, f"{name} is {value}: give a finite number above 0")
        require(
            not isinstance(value, int) or value <= MAX_SIZE, f"{name} is {value}: give at most {MAX_SIZE:,}"
        )


def check_threads(threads: int) -> int:
    """Return the number of threads unchanged.

    Raises:
        InputError: it is not a number of threads.
    """
    fits = isinstance(threads, int) and 1 <= threads <= MAX_THREADS
    require(
        fits,
        f"threads is {threads!r}: give 1 to {MAX_THREADS}; more threads than the machine has cores are slower",
    )
    return threads


def check_device(device: str) -> str:
    """Return the name of a device unchanged: `cpu`, `cuda` or `cuda:N`.

    Raises:
        InputError: it is another name, such as `mps` or `tpu`, which nobody has tested. The backend checks later which
            GPUs exist.
    """
    fits = isinstance(device, str) and re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", device)
    require(
        bool(fits), f"device {device!r} is not supported: give cpu, cuda, or cuda:N for one of several GPUs"
    )
    return device
