"""What a run knows about its devices and processes. The frameworks move the data between them."""

import atexit
import contextlib
import dataclasses
import math
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from lm.config import TrainConfig
from tokenizer.errors import InputError

Axis = Literal["data", "fsdp", "tensor"]

# Matrices of a block: the rows (d_out) of the first are heads or feed-forward units, the columns (d_in) of the others.
_BY_ROWS, _BY_COLUMNS = ("q_proj", "k_proj", "v_proj", "w1", "w3"), ("output_proj", "w2")


@dataclass(frozen=True)
class Mesh:
    """Devices in a grid of three axes. The grid decides where numbers are computed, not which numbers."""

    data: int = 1
    """Number of groups of devices. Each group takes a share of a batch's rows and holds a copy of the model."""
    fsdp: int = 1
    """Number of shares that a group cuts its rows, and each matrix with its moments, into."""
    tensor: int = 1
    """Number of devices that share the heads and the feed-forward units, for the same rows."""

    @classmethod
    def parse(cls, text: str) -> "Mesh":
        """Return the mesh of a text such as `data=2,fsdp=2`. An axis that is left out is 1.

        Raises:
            InputError: the text is not a mesh.
        """
        sizes: dict[str, int] = {}
        for part in text.split(","):
            axis, _, size = part.partition("=")
            known = axis in {field.name for field in dataclasses.fields(cls)} and axis not in sizes
            if not known or not (size.isascii() and size.isdigit() and int(size) > 0):
                raise InputError(
                    f"--mesh {text!r}: {part!r} is not an axis and its size; give some of data=2,fsdp=2,tensor=2"
                )
            sizes[axis] = int(size)
        return cls(**sizes)

    def __str__(self) -> str:
        return f"data={self.data},fsdp={self.fsdp},tensor={self.tensor}"

    @property
    def size(self) -> int:
        """Number of devices."""
        return self.data * self.fsdp * self.tensor

    def check(self, config: TrainConfig) -> None:
        """Refuse a mesh over which the model or its batches cannot be divided.

        Raises:
            InputError: a size is not divisible.
        """
        m, rows = config.model, config.batch_size // config.grad_accumulation
        for axis, size, names in (
            ("data * fsdp", self.data * self.fsdp, {"batch_size / grad_accumulation": rows}),
            ("fsdp", self.fsdp, {"d_model": m.d_model}),
            (
                "tensor",
                self.tensor,
                {"num_heads": m.num_heads, "num_kv_heads": m.num_kv_heads, "d_ff": m.d_ff},
            ),
        ):
            for name, value in names.items():
                assert value is not None  # filled in by ModelConfig
                if value % size:
                    raise InputError(
                        f"--mesh {self}: {name} = {value} is not divisible by {axis} = {size}; change one of them"
                    )

    def split(self, name: str, shape: tuple[int, ...]) -> tuple[Axis | None, ...]:
        """Return the axis that divides each dimension of a leaf (a weight or its moment), or None if it is whole.

        tensor divides heads and feed-forward units: the rows of one matrix and the columns of the next (Shoeybi et
        al., 2019, section 3). fsdp divides the other dimension, which is d_model in every matrix. data divides nothing.
        Gains, and biases of other rows, are whole: they are small, and gathering them would take time.
        """
        layer = name.split(".")[-2] if "." in name else ""
        axis: Axis | None
        if len(shape) == 1:
            return ("tensor",) if layer in _BY_ROWS else (None,)
        if len(shape) == 2:
            axis = "tensor" if layer in _BY_ROWS + _BY_COLUMNS else None
            return ("fsdp", axis) if layer in _BY_COLUMNS else (axis, "fsdp")
        return (None,) * len(shape)

    def share(self, name: str, shape: tuple[int, ...]) -> int:
        """Return the number of elements of a leaf that one device holds."""
        return math.prod(shape) // math.prod(
            getattr(self, axis) for axis in self.split(name, shape) if axis is not None
        )


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from one of them. By default there is one. Only the first reports and publishes."""

    index: int = 0
    count: int = 1
    gather: Callable[[int], list[int]] = lambda value: [value]
    """Wait for all processes and return the number that each of them gives, in their order."""
    is_lost: Callable[[Exception], bool] = lambda error: False
    """Return whether an error is the framework's sign that another process cannot be reached."""
    gather_soon: Callable[[int], list[int]] | None = None
    """`gather` with a timeout, for use at each step: a process that is silent too long counts as lost. If not given:
    `gather`."""

    @property
    def is_first(self) -> bool:
        return self.index == 0

    def any(self, flag: bool) -> bool:
        """Return whether the flag of any process is true. Wait for all, with the timeout of a step."""
        return any((self.gather_soon or self.gather)(int(flag)))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Wait, without a timeout, until all processes have left the block. Continue only if none failed in it.

        Raises:
            InputError: another process failed, and printed why.
        """
        try:
            yield
        except Exception as error:
            if not self.is_lost(error):
                self.gather(1)
            raise
        if any(self.gather(0)):
            raise InputError("another process of this run has failed; its error says why")

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Turn the framework's error for a lost process into one line, and do not wait for that process at exit.

        Raises:
            InputError: another process has ended or cannot be reached.
        """
        try:
            yield
        except Exception as error:
            if self.count > 1:
                # Runs before the framework's own exit handlers, which would wait for all processes.
                atexit.register(os._exit, 2)
                # torchrun ends the other processes by SIGTERM. This process must first print why it ends.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if not self.is_lost(error):
                raise
            reason = str(error).strip().splitlines()[0].split(". ")[0][:200]
            raise InputError(
                f"a process of this run has ended, or cannot be reached ({reason}); the checkpoints are intact: start "
                "all processes again with their command and --resume"
            ) from None
