"""Token files, mapped into memory, and the batches read from them, random by seed alone."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Integer

from lm.rng import integers, philox
from tokenizer.errors import InputError

Tokens = np.ndarray
"""A one-dimensional array of token ids, usually a memory map."""


@dataclass(frozen=True)
class Batch:
    """Windows of tokens and the token that follows each. The leading axis counts micro-batches."""

    inputs: Int[np.ndarray, "A B T"]
    targets: Int[np.ndarray, "A B T"]
    loss_mask: Bool[np.ndarray, "A B T"] | None = None
    """True where a position counts; everywhere if None."""

    @property
    def num_targets(self) -> int:
        """How many positions count."""
        return self.targets.size if self.loss_mask is None else int(self.loss_mask.sum())


def open_tokens(path: Path, vocab_size: int, context_length: int) -> Tokens:
    """Map a .npy file of token ids into memory, after a look at all of it.

    Raises:
        InputError: not such a file, an id of vocab_size or more, or shorter than one window and its target.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(6)
        tokens = np.load(path, mmap_mode="r", allow_pickle=False) if magic == b"\x93NUMPY" else None
    except ValueError as error:
        raise InputError(
            f"{path}: not a readable .npy file ({error}); make one with lm tokenizer encode"
        ) from None
    if tokens is None or tokens.ndim != 1 or tokens.dtype.kind not in "ui":
        raise InputError(f"{path}: not a .npy file of token ids; make one with lm tokenizer encode")
    if len(tokens) < context_length + 1:
        raise InputError(
            f"{path}: {len(tokens)} tokens are fewer than one window of context_length + 1 = "
            f"{context_length + 1}; give more text or lower model.context_length"
        )
    # In blocks, so that a file of any size passes through little memory.
    block = 1 << 24
    for i in range(0, len(tokens), block):
        check_token_ids(tokens[i : i + block], vocab_size, f"{path}: ")
    return tokens


def get_batch(
    tokens: Tokens, seed: int, step: int, batch_size: int, context_length: int, micro_batches: int = 1
) -> Batch:
    """The training batch of one step, a pure function of (tokens, seed, step, sizes).

    Each window starts at a position drawn uniformly from 0 .. len(tokens) - context_length - 1.
    """
    bits = philox(seed, "batch", step).random_raw(batch_size)
    starts = integers(bits, len(tokens) - context_length)
    windows = np.stack([tokens[start : start + context_length + 1] for start in starts]).astype(np.int32)
    windows = windows.reshape(micro_batches, -1, context_length + 1)
    return Batch(windows[..., :-1], windows[..., 1:])


def eval_batches(tokens: Tokens, batch_size: int, context_length: int) -> Iterator[Batch]:
    """All tokens in windows that do not overlap, so that each but the first is a target once.

    Every batch has the same shape; what the last ones lack is masked.
    """
    num_targets, span = len(tokens) - 1, batch_size * context_length
    for start in range(0, num_targets, span):
        chunk = tokens[start : start + span + 1].astype(np.int32)
        padded = np.zeros(span + 1, np.int32)
        padded[: len(chunk)] = chunk
        shape = 1, batch_size, context_length
        is_target = np.arange(span) < len(chunk) - 1
        yield Batch(padded[:-1].reshape(shape), padded[1:].reshape(shape), is_target.reshape(shape))


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


def sidecar_path(path: Path) -> Path:
    """Where the facts about a text or token file stand: beside it, with .json appended to its name."""
    return path.with_name(path.name + ".json")


def read_sidecar(path: Path) -> dict[str, Any]:
    """The facts recorded beside a text or token file; empty where there are none."""
    sidecar = sidecar_path(path)
    if not sidecar.exists():
        return {}
    try:
        facts = json.loads(sidecar.read_text(encoding="utf-8"))
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise InputError(f"{sidecar}: not a JSON object; make {path.name} again or delete its .json")
    return facts


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
