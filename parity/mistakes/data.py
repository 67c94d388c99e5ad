"""Mistakes of batches and of checkpoints."""

from collections.abc import Callable
from functools import partial

import numpy as np

from parity.mistakes.mistake import mistake
from parity.oracle.data import Batch, Restored, get_batch, restore

Rng = np.random.Generator
_WINDOWS = "Windows that miss a place or a token"
_batch = partial(
    mistake,
    replaces="get_batch",
    formula="start uniform over 0 .. len(d) - T - 1; x = d[start : start + T]; y = d[start + 1 : start + T + 1]",
    source="the course's assignment 1, section 5.1",
    pitfall=_WINDOWS,
)
Draw = Callable[[np.ndarray, int, int, Rng], np.ndarray]


def _windows(name: str, starts: Draw, explanation: str) -> None:
    """Add a mistake of the places at which windows start."""

    def variant(d: np.ndarray, B: int, T: int, device: str, rng: Rng) -> Batch:
        get_batch(d, B, T, device, rng)
        places = starts(d, B, T, rng)[:, None] + np.arange(T)
        return d[places].astype(np.int64), d[places + 1].astype(np.int64)

    variant.__doc__ = explanation
    _batch(f"batches: {name}")(variant)


_windows(
    "the last place is never drawn",
    lambda d, B, T, rng: rng.integers(0, len(d) - T - 1, B),
    "The starts end at len - context_length - 2. The last token is never a target.",
)
_windows(
    "the first place is never drawn",
    lambda d, B, T, rng: rng.integers(1, len(d) - T, B),
    "The starts begin at 1. The first token is never an input.",
)
_windows(
    "starts reach one place too far",
    lambda d, B, T, rng: rng.integers(0, len(d) - T + 1, B),
    "The starts reach len - context_length, whose last target is beyond the data. Such a draw ends in an "
    "error, or in a shorter row.",
)
_windows(
    "starts are multiples of the context length",
    lambda d, B, T, rng: T * rng.integers(0, (len(d) - 1) // T, B),
    "Windows start at multiples of context_length only. The model sees each token at one position.",
)
_windows(
    "one start for the whole batch",
    lambda d, B, T, rng: np.repeat(rng.integers(0, len(d) - T, 1), B),
    "One start is drawn for all rows. A batch then carries no more information than one row.",
)
_windows(
    "every batch is the same",
    lambda d, B, T, rng: np.random.default_rng(0).integers(0, len(d) - T, B),
    "Each call returns one and the same batch, because its generator is seeded in the call. The model sees a "
    "tiny part of the data.",
)
_windows(
    "windows in order from the start",
    lambda d, B, T, rng: np.arange(B) % (len(d) - T),
    "The rows are the first windows of the data in order, in each call. Nothing is drawn at random.",
)
_windows(
    "starts too far are moved to the last place",
    lambda d, B, T, rng: np.minimum(rng.integers(0, len(d), B), len(d) - T - 1),
    "Starts are drawn from the whole data, and those that are too far are moved to the last place. The last "
    "window is seen far too often.",
)


@_batch("batches: targets equal the inputs")
def _(d: np.ndarray, B: int, T: int, device: str, rng: Rng) -> Batch:
    """y is x itself. The model learns to copy its input."""
    x, _ = get_batch(d, B, T, device, rng)
    return x, x


@_batch("batches: inputs and targets swapped")
def _(d: np.ndarray, B: int, T: int, device: str, rng: Rng) -> Batch:
    """The targets come before the inputs. The model learns to predict the past."""
    x, y = get_batch(d, B, T, device, rng)
    return y, x


@_batch("batches: targets two tokens further on")
def _(d: np.ndarray, B: int, T: int, device: str, rng: Rng) -> Batch:
    """y follows x by two tokens. The model never learns the next token."""
    places = rng.integers(0, len(d) - T - 1, (B, 1)) + np.arange(T)
    get_batch(d, B, T, device, rng)
    return d[places].astype(np.int64), d[places + 2].astype(np.int64)


@_batch("batches: targets shifted around inside the window")
def _(d: np.ndarray, B: int, T: int, device: str, rng: Rng) -> Batch:
    """y is x rolled by one place, so its last element is the window's first token. One target in each row is
    wrong."""
    x, _ = get_batch(d, B, T, device, rng)
    return x, np.roll(x, -1, 1)


@_batch("batches: only the last token is a target")
def _(d: np.ndarray, B: int, T: int, device: str, rng: Rng) -> Batch:
    """y is the one token after each window. The loss needs a target at each position."""
    x, y = get_batch(d, B, T, device, rng)
    return x, y[:, -1]


@_batch("batches: windows of context_length + 1 tokens")
def _(d: np.ndarray, B: int, T: int, device: str, rng: Rng) -> Batch:
    """Each row of x has one token too many. The model's positions run out, or each position is trained for another
    length."""
    return get_batch(d, B, T + 1, device, rng)


@_batch("batches: windows of context_length - 1 tokens")
def _(d: np.ndarray, B: int, T: int, device: str, rng: Rng) -> Batch:
    """A window of context_length tokens is cut into x and y, so both lack one token. The last position is never
    trained."""
    x, y = get_batch(d, B, T, device, rng)
    return x[:, :-1], y[:, :-1]


@_batch("batches: tokens drawn one by one")
def _(d: np.ndarray, B: int, T: int, device: str, rng: Rng) -> Batch:
    """Each token of x is drawn at a place of its own. The rows are no text."""
    x, y = get_batch(d, B * T, 1, device, rng)
    return x.reshape(B, T), y.reshape(B, T)


@_batch("batches: the device is ignored", pitfall="")
def _(d: np.ndarray, B: int, T: int, device: str, rng: Rng) -> Batch:
    """The tensors stay where they are, whatever the device. A device that does not exist goes unnoticed, and a GPU
    is not used."""
    return get_batch(d, B, T, "cpu", rng)


@_batch("batches: the file's type is kept", pitfall="")
def _(d: np.ndarray, B: int, T: int, device: str, rng: Rng) -> Batch:
    """The ids keep a narrow type of the data. An embedding and a loss need int64."""
    x, y = get_batch(d, B, T, device, rng)
    return x.astype(d.dtype), y.astype(d.dtype)


_CHECKPOINT = "Checkpoints that forget"
_RIGHT = "save both state_dict()s and the iteration; load_state_dict() of both; return the iteration"


def _restored(name: str, explanation: str, **wrong: str) -> None:
    """Add a mistake of what a checkpoint gives back."""

    def variant() -> Restored:
        return Restored(**(vars(restore()) | wrong))

    variant.__doc__ = explanation
    source = "the course's assignment 1, section 5.2"
    mistake(f"checkpoint: {name}", "restore", formula=_RIGHT, source=source, pitfall=_CHECKPOINT)(variant)


_restored(
    "the model is not loaded",
    "The model's weights stay what they were before loading. The run starts from the beginning, with the "
    "optimizer's old moments.",
    parameters="fresh",
    buffers="fresh",
    next_step="other",
)
_restored(
    "buffers are missing",
    "Only the parameters are saved, not the whole state_dict. Buffers keep their values from before loading.",
    buffers="fresh",
    next_step="other",
)
_restored(
    "the optimizer is not loaded",
    "The optimizer's state stays empty. Moments and step count start again from 0, and the loss jumps.",
    optimizer_state="fresh",
    optimizer_options="fresh",
    next_step="other",
)
_restored(
    "the optimizer's options are not loaded",
    "The moments are restored, but not param_groups. The learning rate and the other options are those of the "
    "new optimizer.",
    optimizer_options="fresh",
    next_step="other",
)
_restored(
    "the optimizer's moments are not loaded",
    "The options are restored, but not the state of the parameters. Moments and step count start again from 0.",
    optimizer_state="fresh",
    next_step="other",
)
_restored(
    "tuples become lists",
    "The optimizer's options pass through a format that has no tuples, such as JSON. `betas` is then a list, "
    "and the state dicts are no longer equal.",
    tuples="lists",
)
_restored(
    "numbers lose their precision",
    "Tensors are saved in another type than they have. The run that resumes is not the one that stopped.",
    parameters="other",
    buffers="other",
    next_step="other",
)
_restored(
    "the iteration is not returned",
    "Loading returns None. The schedule and the loop start again from step 0.",
    iteration="None",
)
_restored(
    "the iteration is one too large",
    "Loading returns the iteration after the saved one. One step of the schedule and of the data is left out.",
    iteration="one more",
)
_restored(
    "the iteration is 0",
    "Loading returns 0, whatever was saved. The schedule and the loop start again.",
    iteration="0",
)
