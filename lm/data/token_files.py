"""Token files, mapped into memory: .npy, or nanoGPT's .bin."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lm.data.batch import check_token_ids
from lm.data.npy import MAGIC, map_npy
from lm.files import file_sha256, require_file
from tokenizer.errors import InputError

Tokens = np.ndarray
"""A one-dimensional array of token ids, usually a memory map."""

_WHOLE, _SAMPLES, _BLOCK = 1 << 30, 4096, 1 << 14


def open_tokens(path: Path, vocab_size: int, context_length: int) -> Tokens:
    """Map a token file into memory, and check its ids: all of them, or a sample if the file exceeds 1 GiB.

    A token file is .npy, or nanoGPT's .bin, which holds little-endian uint16 and nothing else.

    Raises:
        InputError: it is not a token file, has an id of vocab_size or more, or is shorter than one window and its
            target.
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
    # Every batch is checked again, so a sample is enough for a file that takes long to read.
    for start, stop in _blocks(tokens.nbytes):
        block = read_parts(tokens, [(start // tokens.itemsize, stop // tokens.itemsize)])[0]
        check_token_ids(block, vocab_size, f"{path}: ")
    return tokens


def find_token(tokens: Tokens, token_id: int) -> Iterator[np.ndarray]:
    """Yield, block by block of the file, the places at which a token stands."""
    block = 1 << 22
    for start in range(0, len(tokens), block):
        yield start + np.flatnonzero(read_parts(tokens, [(start, start + block)])[0] == token_id)


def contains(tokens: Tokens, token_id: int) -> bool:
    """Return whether a token occurs. Reading ends at the first block that has it."""
    return any(found.size for found in find_token(tokens, token_id))


def fingerprint(path: Path) -> str:
    """Return a hash of a token file's contents: SHA-256 of all bytes, or of the size and a sample above 1 GiB.

    With a sample, a run on 40 GB starts without minutes of reading.
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


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of blocks of bytes: all bytes up to 1 GiB, or 4,096 blocks of 16 KiB.

    The 4,096 blocks are spread evenly from the first byte to the last.
    """
    if size <= _WHOLE:
        block = 1 << 24
        yield from ((start, min(start + block, size)) for start in range(0, size, block))
    else:
        for k in range(_SAMPLES):
            # Start at a multiple of 8 bytes, which is the start of an id for every type of ids.
            start = (size - _BLOCK) * k // (_SAMPLES - 1) // 8 * 8
            yield start, start + _BLOCK
        yield size // 8 * 8 - _BLOCK, size // 8 * 8


def as_int32(tokens: Tokens) -> Tokens:
    """Return a copy as int32, the type of a batch. An id that does not fit is clipped, and so stays out of range."""
    if tokens.dtype.itemsize >= 4:
        limits = np.iinfo(np.int32)
        low = 0 if tokens.dtype.kind == "u" else limits.min
        tokens = np.clip(tokens, low, limits.max)
    return np.array(tokens, np.int32)


def read_parts(tokens: np.ndarray, parts: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Return the parts (start, stop) of an array. The parts of a memory map are read from its file.

    Touching a map after its file was cut short is a bus error, which ends the process. Also, touched pages count as
    memory of this process until memory runs short.

    Raises:
        InputError: the file was deleted or changed.
    """
    if not isinstance(tokens, np.memmap) or not parts:
        return [tokens[start:stop] for start, stop in parts]
    path, mapped, found = Path(str(tokens.filename)), tokens._mmap, []  # type: ignore[attr-defined]
    offset = tokens.ctypes.data - np.frombuffer(mapped, np.uint8, 1).ctypes.data
    changed = f"{path}: has changed while it was in use; put it back, and resume with --resume"
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
