"""Encode a text file into a .npy file of token ids."""

import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np

from tokenizer.errors import InputError
from tokenizer.files import atomic_output, not_utf8
from tokenizer.progress import progress_bar
from tokenizer.ranges import cut_file, file_size, open_range, share
from tokenizer.tokenizer import Tokenizer
from tokenizer.workers import Result, Task, run_tasks


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

    The output appears in full or not at all. Memory does not grow with the file.

    Args:
        input_path: the text.
        tokenizer: what encodes it.
        output_path: the .npy file to write.
        num_workers: processes that encode; None for as many as there are processors. The result is the same.
        progress: show a progress bar on stderr.
        overwrite: replace an existing `output_path`.

    Raises:
        InputError: the input is missing, empty or not UTF-8, or the output exists and `overwrite` is false.
    """
    start = time.perf_counter()
    output_path = Path(output_path)
    if output_path.exists() and not overwrite:
        raise InputError(f"{output_path} exists; choose another output, or remove it first")
    num_bytes = file_size(input_path, "encode")
    workers, range_size = share(num_bytes, num_workers)
    worker = EncodeWorker(input_path, tokenizer)
    ranges = cut_file(input_path, tokenizer.pretokenizer, range_size)
    num_tokens = 0
    dtype = tokenizer.dtype.newbyteorder("<")  # the same file on every machine
    with atomic_output(output_path) as file, progress_bar(progress, "encode", num_bytes, "B") as update:
        file.write(npy_header(0, dtype))
        for ids, done in run_tasks(worker, ranges, workers):
            file.write(ids.astype(dtype, copy=False).data)
            num_tokens += len(ids)
            update(int(done[0]))
        file.seek(0)
        file.write(npy_header(num_tokens, dtype))
    return EncodeResult(num_tokens, num_bytes, time.perf_counter() - start, str(tokenizer.dtype))


class EncodeWorker:
    """Encodes ranges of a file; a `workers.Worker`."""

    def __init__(self, path: str | Path, tokenizer: Tokenizer) -> None:
        self._path = path
        self._tokenizer = tokenizer

    def setup(self) -> dict[str, Any]:
        """Return the arguments of `from_setup`."""
        return {"path": str(self._path), "tokenizer": self._tokenizer.to_dict()}

    @classmethod
    def from_setup(cls, setup: dict[str, Any]) -> Self:
        """Make a worker in another process."""
        return cls(setup["path"], Tokenizer.from_dict(setup["tokenizer"]))

    def run(self, task: Task) -> Result:
        """Return the ids of a range, and its number of bytes."""
        start, end = task
        try:
            with open_range(self._path, start, end) as read:
                ids = [ids for ids, _ in self._tokenizer.stream_encoder.encode(read)]
        except UnicodeDecodeError as error:
            raise InputError(not_utf8(self._path, start + error.start)) from None
        return [np.concatenate(ids), np.array([end - start])]

    def finish(self) -> Result:
        """Return nothing more."""
        return [np.zeros(0, self._tokenizer.dtype), np.zeros(1, np.int64)]


def npy_header(length: int, dtype: np.dtype) -> bytes:
    """Return the header of a one-dimensional .npy file, as long for every length.

    NumPy leaves room in the header for a length of up to 21 digits, so that one can be written over another.
    """
    header = BytesIO()
    description = {"descr": dtype.str, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()
