"""Refuse what this machine cannot hold: before the work if the sizes tell, in one line if memory runs out during it."""

import contextlib
import errno
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from lm.accounting.activations import Account
from lm.accounting.memory import Memory, memory
from lm.accounting.report import gigabytes
from lm.config import TrainConfig
from lm.flops import parameters
from lm.machine import total_memory
from lm.mesh import Mesh
from lm.text.rings import ring_length
from lm.text.sampling import SamplingConfig
from tokenizer.errors import InputError


class OutOfMemoryError(InputError):
    """The machine has less memory than a command or a call needs."""


_MODEL = "the model's vocab_size, context_length, d_model or num_layers"
_ROW_BYTES = 1000
"""Bytes of Python objects for each generated text, at least."""


def refuse_more_than_memory(needed: int, what: str, mend: str) -> None:
    """Refuse what this machine's memory could not hold even if it were empty.

    Args:
        needed: Number of bytes.
        what: What needs them, with its verb.
        mend: What to lower.

    Raises:
        OutOfMemoryError: they do not fit.
    """
    total = total_memory()
    if needed > total:
        raise OutOfMemoryError(
            f"{what} {gigabytes(needed)} GB, and this machine has {gigabytes(total)} GB of memory; "
            f"lower {mend}"
        )


def refuse_weights(config: TrainConfig) -> None:
    """Refuse a model if its weights alone do not fit.

    Raises:
        OutOfMemoryError: they do not fit.
    """
    if config.device == "cpu":
        needed = sum(parameters(config.model).values()) * (8 if config.param_dtype == "float64" else 4)
        refuse_more_than_memory(needed, "by lm accounting the model's weights take", _MODEL)


def refuse_step(config: TrainConfig, backend: Account, mesh: Mesh | None = None) -> None:
    """Refuse a training step that does not fit. On a mesh, each device's weights and moments must fit.

    Raises:
        OutOfMemoryError: the step does not fit.
    """
    if config.device != "cpu":
        return
    if mesh and mesh.size > 1:
        needed = memory(config, "jax", mesh).moments["update"].fixed
        refuse_more_than_memory(
            needed, "by lm accounting each device's share of weights and moments takes", _MODEL
        )
        return
    needs, rows = memory(config, backend), config.batch_size // config.grad_accumulation
    refuse_more_than_memory(
        needs.peak(rows), f"by lm accounting {_step(config)} needs", _to_lower(needs, config)
    )


def explain_step(config: TrainConfig, backend: Account) -> str:
    """Return what a training step needs and what to lower, for the error when memory has run out."""
    needs, rows = memory(config, backend), config.batch_size // config.grad_accumulation
    needed = gigabytes(needs.peak(rows))
    return f"by lm accounting {_step(config)} needs {needed} GB; lower {_to_lower(needs, config)}"


def _step(config: TrainConfig) -> str:
    rows = config.batch_size // config.grad_accumulation
    return f"a training step of {rows:,} windows at once, of {config.model.context_length:,} tokens each,"


def _to_lower(needs: Memory, config: TrainConfig) -> str:
    fit = needs.largest_batch(total_memory())
    if not fit:
        return _MODEL
    if fit < config.batch_size // config.grad_accumulation:
        return f"batch_size, or raise grad_accumulation: at most {fit:,} windows fit at once"
    return f"batch_size, or raise grad_accumulation, or lower {_MODEL}"


def refuse_generation(config: TrainConfig, prompts: int, sampling: SamplingConfig) -> None:
    """Refuse to generate more texts at once than fit with their caches. A sliding layer caches its window alone.

    Raises:
        OutOfMemoryError: they do not fit.
    """
    m, rows = config.model, prompts * sampling.samples
    assert m.num_kv_heads is not None
    assert m.d_head is not None
    slots = min(m.context_length, sampling.max_new_tokens) + (m.prefix_length or 0)
    size = {"bfloat16": 2, "float32": 4, "float64": 8}[config.compute_dtype]
    keys = sum(ring_length(m, m.layer_type(i), slots) for i in range(m.num_layers))
    cache = 2 * keys * m.num_kv_heads * m.d_head * size
    needed = rows * _ROW_BYTES + (rows * (cache + 4 * m.vocab_size) if config.device == "cpu" else 0)
    refuse_more_than_memory(
        needed, f"{rows:,} texts at once take", "the number of prompts, samples or max_new_tokens"
    )


def refuse_more_than_disk(needed: int, path: Path, what: str, mend: str) -> None:
    """Refuse to begin a file that the disk has no room for.

    Args:
        needed: Size of the file in bytes.
        what: What the file holds.
        mend: What to lower.

    Raises:
        InputError: the disk has no room for it.
    """
    folder = next(p for p in (path.absolute(), *path.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{path}: {what} needs {gigabytes(needed)} GB, and the disk has {gigabytes(free)} GB left; lower {mend}"
        )


# Messages of torch, CUDA, XLA, NumPy and C++, also those about sizes beyond any address space. XLA's matrix products on
# a CPU use YNNPACK, which gives no reason for a failure; it can only lack memory.
_SIGNS = re.compile(
    r"can't allocate memory|not enough memory|out of memory|RESOURCE_EXHAUSTED|bad_alloc|bad allocation"
    r"|_ALLOC_FAILED|YNNPACK operation failed|Storage size calculation overflowed"
    r"|array is too big|Maximum allowed (size|dimension)",
    re.IGNORECASE,
)


_ASKED = re.compile(r"\d[\d.,]* ?([KMGTPE]i?B|bytes)\b")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception of Python, NumPy, torch or JAX says that memory has run out."""
    if isinstance(error, InputError):
        return False
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | ValueError) and bool(_SIGNS.search(str(error)))
    )


@contextlib.contextmanager
def explained(
    describe: Callable[[], str] = lambda: "give smaller sizes or files, or close other programs",
) -> Iterator[None]:
    """Turn exceptions that say that memory has run out into one of the project's own.

    Args:
        describe: Returns what was asked for and what to lower.

    Raises:
        OutOfMemoryError: memory has run out.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        asked = _ASKED.search(str(error))
        raise OutOfMemoryError(f"out of memory{f' ({asked[0]})' if asked else ''}: {describe()}") from error
