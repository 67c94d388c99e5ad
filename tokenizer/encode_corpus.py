"""Encode a text file into a .npy file of token ids."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenizer import files
from tokenizer.errors import InputError
from tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class EncodeResult:
    """What `encode_corpus` wrote, and what it took."""

    num_tokens: int
    num_bytes: int
    seconds: float
    dtype: str


def encode_corpus(
    input_path: str | Path,
    tokenizer: Tokenizer,
    output_path: str | Path,
    *,
    num_workers: int | None = None,
    progress: bool = False,
    overwrite: bool = False,
) -> EncodeResult:
    """Encode a UTF-8 text file into a one-dimensional .npy array of ids, uint16 or uint32.

    The output appears in full or not at all.

    Args:
        input_path: the text.
        tokenizer: what encodes it.
        output_path: the .npy file to write.
        num_workers: processes that encode; None for as many as there are processors. Does not change the result.
        progress: show a progress bar on stderr.
        overwrite: replace an existing `output_path`.

    Raises:
        InputError: the input is missing, empty or not UTF-8, or the output exists and `overwrite` is false.
    """
    start = time.perf_counter()
    output_path = Path(output_path)
    if output_path.exists() and not overwrite:
        raise InputError(f"{output_path} exists; choose another output, or remove it first")
    text = files.read_text(input_path)
    if not text:
        raise InputError(f"{input_path} is empty; give a file with text to encode")
    ids = tokenizer.encode_to_numpy(text)
    partial = output_path.with_name(f".{output_path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            np.save(file, ids)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, output_path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return EncodeResult(len(ids), os.path.getsize(input_path), time.perf_counter() - start, str(ids.dtype))
