"""Several devices, and several processes: what a run knows of them. What moves between them, the frameworks do."""

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

# A block's matrices whose rows (d_out) are heads or feed-forward units, and those whose columns (d_in) are.
_BY_ROWS, _BY_COLUMNS = ("q_proj", "k_proj", "v_proj", "w1", "w3"), ("output_proj", "w2")


@dataclass(frozen=True)
class Mesh:
    """Devices in a grid of three axes. It decides where numbers are computed, and not which."""

    data: int = 1
    """Groups of devices that each take a share of a batch's rows, and hold a copy of what the group shares."""
    fsdp: int = 1
    """Devices that each take a share of the group's rows, and hold a share of each matrix and its moments."""
    tensor: int = 1
    """Devices that each compute a share of the heads and of the feed-forward units, for the same rows."""

    @classmethod
    def parse(cls, text: str) -> "Mesh":
        """The mesh of a text such as `data=2,fsdp=2`; an axis that is left out is 1.

        Raises:
            InputError: the text is none.
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
        """How many devices it takes."""
        return self.data * self.fsdp * self.tensor

    def check(self, config: TrainConfig) -> None:
        """Refuse a mesh that a model or its batches cannot be divided over.

        Raises:
            InputError: names what cannot, and the mend.
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
        """Which axis each dimension of a leaf (a weight, or its moment) is divided over; nothing over `data`.

        tensor divides heads and feed-forward units, the rows of one matrix and the columns of the next (Shoeybi et
        al., 2019, section 3); fsdp divides the other dimension, which is d_model in every matrix. Gains, and biases
        that are not of such rows, are whole: they weigh nothing, and to gather them would take time.
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
        """How many elements of a leaf one device holds."""
        return math.prod(shape) // math.prod(
            getattr(self, axis) for axis in self.split(name, shape) if axis is not None
        )


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from one of them; by default it is alone. The first alone speaks and publishes."""

    index: int = 0
    count: int = 1
    gather: Callable[[int], list[int]] = lambda value: [value]
    """The number that each process gives here, in their order; waits for all."""
    is_lost: Callable[[Exception], bool] = lambda error: False
    """Whether an error is the framework's own, where another process cannot be reached."""
    gather_soon: Callable[[int], list[int]] | None = None
    """`gather` for each step, which takes a process for lost that is silent for long; the same where not given."""

    @property
    def is_first(self) -> bool:
        return self.index == 0

    def any(self, flag: bool) -> bool:
        """Whether any process says so; waits for all, as long as a step does."""
        return any((self.gather_soon or self.gather)(int(flag)))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Go on only where no process failed inside; waits for all, however long they take.

        Raises:
            InputError: another one failed, and says why.
        """
        try:
            yield
        except Exception as error:
            if not self.is_lost(error):
                self.gather(1)
            raise
        if any(self.gather(0)):
            raise InputError("another process of this run has failed, and says why")

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Say in one line that another process has gone, and do not wait for it when this one ends.

        Raises:
            InputError: it has.
        """
        try:
            yield
        except Exception as error:
            if self.count > 1:
                # Before what the framework has registered, which would wait for all.
                atexit.register(os._exit, 2)
                # By which torchrun ends the others, before this one has said why it ends.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if not self.is_lost(error):
                raise
            reason = str(error).strip().splitlines()[0].split(". ")[0][:200]
            raise InputError(
                f"a process of this run has ended, or cannot be reached ({reason}); the checkpoints are intact: start "
                "all processes again, with the same command and --resume"
            ) from None
