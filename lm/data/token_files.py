"""Token files, mapped into memory, and the batches read from them, random by seed alone."""

import glob
import hashlib
import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Integer

from lm.data.npy import MAGIC, map_npy
from lm.files import require_file
from lm.rng import integers, philox, uniform
from tokenizer.errors import InputError

Tokens = np.ndarray
"""A one-dimensional array of token ids, usually a memory map."""


@dataclass(frozen=True)
class Batch:
    """Windows of tokens and what is to be predicted at each position. The leading axis counts micro-batches."""

    inputs: Int[np.ndarray, "A B T"]
    targets: Int[np.ndarray, "A B T"]
    """Of a decoder, the token that follows; of an encoder, the token that stood there before some were masked."""
    loss_mask: Bool[np.ndarray, "A B T"] | None = None
    """True where a position counts; everywhere if None."""
    num_tokens: Int[np.ndarray, "A B"] | None = None
    """Tokens of the sequence that attends both ways, padding behind them: an encoder's inputs, or the prefix."""
    prefix: Int[np.ndarray, "A B P"] | None = None
    """What the encoder of an encoder-decoder reads."""

    @property
    def model_inputs(self) -> tuple[np.ndarray, ...]:
        """What the model takes: inputs, and num_tokens and prefix where there are any."""
        return tuple(a for a in (self.inputs, self.num_tokens, self.prefix) if a is not None)

    @property
    def num_targets(self) -> int:
        """How many positions count."""
        return self.targets.size if self.loss_mask is None else int(self.loss_mask.sum())


def open_tokens(path: Path, vocab_size: int, context_length: int) -> Tokens:
    """Map a token file into memory, after a look at all of it (over 1 GiB: at a sample).

    Token files are .npy, or nanoGPT's .bin: ids as little-endian uint16, and nothing else.

    Raises:
        InputError: not such a file, an id of vocab_size or more, or shorter than one window and its target.
    """
    require_file(path)
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
    try:
        tokens = None
        if magic == MAGIC:
            tokens = map_npy(path)
        elif magic and path.suffix == ".bin":
            tokens = np.memmap(path, "<u2", mode="r")
    except ValueError as error:
        raise InputError(
            f"{path}: not a readable .npy file, nor .bin of uint16 ({error}); make one with lm tokenizer encode"
        ) from None
    if tokens is None:
        raise InputError(
            f"{path}: not a .npy file of token ids, nor a .bin of them; make one with lm tokenizer encode"
        )
    if len(tokens) < context_length + 1:
        raise InputError(
            f"{path}: {len(tokens)} tokens are fewer than one window of context_length + 1 = "
            f"{context_length + 1}; give more text or lower model.context_length"
        )
    # Every batch is checked again, so of a file that takes long to read a sample will do here.
    for start, stop in _blocks(tokens.nbytes):
        block = read_parts(tokens, [(start // tokens.itemsize, stop // tokens.itemsize)])[0]
        check_token_ids(block, vocab_size, f"{path}: ")
    return tokens


@dataclass(frozen=True)
class Corpus:
    """Token files that training windows are drawn from."""

    files: tuple[Tokens, ...]
    shares: tuple[float, ...]
    """How much of the windows each file is to give; any positive numbers."""

    def starts(self, seed: int, step: int, batch_size: int, context_length: int) -> list[tuple[int, int]]:
        """Which file each window of a step's batch is in, and where it starts.

        The file is drawn by the shares, the start uniformly from the file's 0 .. tokens - context_length - 1.
        """
        return draw(
            [len(tokens) - context_length for tokens in self.files], self.shares, seed, step, batch_size
        )


def draw(
    sizes: Sequence[int], shares: Sequence[float], seed: int, step: int, batch_size: int
) -> list[tuple[int, int]]:
    """Which file each member of a step's batch is in, drawn by the shares, and which of the file's `size` it is."""
    bits = philox(seed, "batch", step).random_raw(batch_size)
    if len(sizes) == 1:
        chosen = np.zeros(batch_size, np.int64)
    else:
        u = uniform(philox(seed, "file", step).random_raw(batch_size))
        sums = np.cumsum(shares)
        # Never a file beyond the last, whatever rounding does.
        chosen = np.searchsorted(sums[:-1], u * sums[-1], side="right")
    return [(i, int(integers(bits[k : k + 1], sizes[i])[0])) for k, i in enumerate(chosen.tolist())]


def open_corpus(
    patterns: Sequence[Path], weights: Sequence[float], vocab_size: int, context_length: int
) -> tuple[Corpus, tuple[Path, ...]]:
    """Open token files as one corpus, and return their paths too.

    Args:
        patterns: Files, or globs such as `stories/*.npy`, which stand for several.
        weights: The share of the windows that each pattern is to give; within a pattern, and where there are no
            weights at all, files give windows by their size, as if they were one file.

    Raises:
        InputError: a pattern matches nothing, the weights do not fit, or a file cannot be used.
    """
    found = find_files(patterns, weights)
    opened = [[open_tokens(path, vocab_size, context_length) for path in paths] for paths in found]
    files = tuple(chain(*opened))
    shares = mixture([[len(tokens) - context_length for tokens in some] for some in opened], weights)
    return Corpus(files, shares), tuple(chain(*found))


def find_files(patterns: Sequence[Path], weights: Sequence[float]) -> list[list[Path]]:
    """The files of each pattern; the pattern itself where it matches none.

    Raises:
        InputError: the weights do not fit.
    """
    if weights and (len(weights) != len(patterns) or not all(0 < w < math.inf for w in weights)):
        raise InputError(
            f"the weights are {' '.join(map(str, weights))}: give one number above 0 for each of the "
            f"{len(patterns)} files or globs to train on"
        )
    return [
        [pattern] if pattern.exists() else [Path(p) for p in sorted(glob.glob(str(pattern)))] or [pattern]
        for pattern in patterns
    ]


def mixture(sizes: Sequence[Sequence[int]], weights: Sequence[float]) -> tuple[float, ...]:
    """The share of each file, from the sizes of each pattern's files and the weights as in `open_corpus`."""
    factors = (
        [w / sum(some) for w, some in zip(weights, sizes, strict=True)] if weights else [1.0] * len(sizes)
    )
    return tuple(size * factor for some, factor in zip(sizes, factors, strict=True) for size in some)


def get_batch(
    tokens: Tokens | Corpus,
    seed: int,
    step: int,
    batch_size: int,
    context_length: int,
    micro_batches: int = 1,
) -> Batch:
    """The training batch of one step, a pure function of (tokens, seed, step, sizes).

    Each window starts at a position drawn uniformly from 0 .. len(tokens) - context_length - 1.

    Raises:
        InputError: a token file has gone, or was cut short.
    """
    corpus = tokens if isinstance(tokens, Corpus) else Corpus((tokens,), (1.0,))
    starts = corpus.starts(seed, step, batch_size, context_length)
    windows: Tokens = np.empty((batch_size, context_length + 1), np.int32)
    for i, file in enumerate(corpus.files):
        mine = [k for k, (chosen, _) in enumerate(starts) if chosen == i]
        parts = [(starts[k][1], starts[k][1] + context_length + 1) for k in mine]
        for k, window in zip(mine, read_parts(file, parts), strict=True):
            windows[k] = as_int32(window)
    windows = windows.reshape(micro_batches, -1, context_length + 1)
    return Batch(windows[..., :-1], windows[..., 1:])


def prefetched(
    make: Callable[[int], Batch], first: int, stop: int, ahead: int = 3
) -> Generator[Batch, None, None]:
    """`make(step)` for first <= step < stop, made in a thread so many steps ahead.

    What `make` raises comes at the step that it was raised for.
    """
    with ThreadPoolExecutor(1, "batches") as pool:
        made = deque(pool.submit(make, step) for step in range(first, min(first + ahead, stop)))
        for step in range(first, stop):
            batch = made.popleft().result()
            if step + ahead < stop:
                made.append(pool.submit(make, step + ahead))
            yield batch


def eval_batches(tokens: Tokens, batch_size: int, context_length: int) -> Iterator[Batch]:
    """All tokens in windows that do not overlap, so that each but the first is a target once.

    Every batch has the same shape; what the last ones lack is masked.

    Raises:
        InputError: the token file has gone, or was cut short.
    """
    num_targets, span = len(tokens) - 1, batch_size * context_length
    for start in range(0, num_targets, span):
        chunk = as_int32(read_parts(tokens, [(start, start + span + 1)])[0])
        padded = np.zeros(span + 1, np.int32)
        padded[: len(chunk)] = chunk
        shape = 1, batch_size, context_length
        is_target = np.arange(span) < len(chunk) - 1
        yield Batch(padded[:-1].reshape(shape), padded[1:].reshape(shape), is_target.reshape(shape))


def as_int32(tokens: Tokens) -> Tokens:
    """A copy as int32, to which every type of token file is widened; what does not fit stays out of range."""
    if tokens.dtype.itemsize >= 4:
        limits = np.iinfo(np.int32)
        low = 0 if tokens.dtype.kind == "u" else limits.min
        tokens = np.clip(tokens, low, limits.max)
    return np.array(tokens, np.int32)


def read_parts(tokens: np.ndarray, parts: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Parts of an array, from start to stop; those of a memory map are read from its file.

    Touching a map whose file has been cut short is a bus error, which ends the process; and what was touched counts
    as this process's memory until memory runs short.

    Raises:
        InputError: the file has gone, or was changed.
    """
    if not isinstance(tokens, np.memmap) or not parts:
        return [tokens[start:stop] for start, stop in parts]
    path, mapped, found = Path(str(tokens.filename)), tokens._mmap, []  # type: ignore[attr-defined]
    offset = tokens.ctypes.data - np.frombuffer(mapped, np.uint8, 1).ctypes.data
    changed = f"{path}: has changed while it was in use; put it back, and go on with --resume"
    try:
        with path.open("rb", buffering=0) as file:
            for start, stop in parts:
                size = (min(stop, len(tokens)) - start) * tokens.itemsize
                file.seek(offset + start * tokens.itemsize)
                data = file.read(size)
                if len(data) < size or os.fstat(file.fileno()).st_size != mapped.size():
                    raise InputError(changed)
                found.append(np.frombuffer(data, tokens.dtype))
    except OSError as error:
        raise InputError(f"{changed} ({error.strerror})") from None
    return found


def check_token_ids(token_ids: Integer[np.ndarray, "..."], vocab_size: int, where: str = "") -> None:
    """Refuse ids outside 0 .. vocab_size - 1, which torch would take from the end and XLA would clamp."""
    if not token_ids.size:
        return
    low, high = int(token_ids.min()), int(token_ids.max())
    if low < 0 or high >= vocab_size:
        raise InputError(
            f"{where}token id {low if low < 0 else high} is outside 0 .. {vocab_size - 1}; "
            "encode with the model's own tokenizer, or set model.vocab_size to fit"
        )


def check_batch(batch: Batch, vocab_size: int) -> None:
    """Refuse ids out of range in a batch."""
    for token_ids in (batch.inputs, batch.targets, batch.prefix):
        if token_ids is not None:
            check_token_ids(token_ids, vocab_size)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_WHOLE, _SAMPLES, _BLOCK = 1 << 30, 4096, 1 << 14


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    """Start and stop of blocks of bytes: all of up to 1 GiB, or 4,096 of 16 KiB, evenly spread to the very ends."""
    if size <= _WHOLE:
        block = 1 << 24
        yield from ((start, min(start + block, size)) for start in range(0, size, block))
    else:
        for k in range(_SAMPLES):
            # On a multiple of 8 bytes, where an id of any type begins.
            start = (size - _BLOCK) * k // (_SAMPLES - 1) // 8 * 8
            yield start, start + _BLOCK
        yield size // 8 * 8 - _BLOCK, size // 8 * 8


def fingerprint(path: Path) -> str:
    """What tells the contents of one token file from another's: SHA-256, over 1 GiB of its size and a sample.

    So starting on 40 GB takes no minutes.
    """
    size = path.stat().st_size
    if size <= _WHOLE:
        return file_sha256(path)
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start, stop in _blocks(size):
            file.seek(start)
            digest.update(file.read(stop - start))
    return digest.hexdigest()
