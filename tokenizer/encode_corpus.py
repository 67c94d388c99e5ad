"""Encode text files into a .npy file of token ids."""

import time
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tokenizer.errors import InputError
from tokenizer.files.publish import alone_at, published, refuse_existing, start_to_flush
from tokenizer.files.reading import not_utf8
from tokenizer.files.sources import Paths, open_texts
from tokenizer.parallel.dask_engine import divide, map_tasks
from tokenizer.parallel.ranges import cut_files, open_range, share
from tokenizer.parallel.workers import Result, Task, run_tasks
from tokenizer.progress import progress_bar
from tokenizer.streams import StreamEncoder
from tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from distributed import Client

FLUSH = 1 << 22  # bytes after which flushing to disk starts


@dataclass(frozen=True)
class EncodeResult:
    """What `encode_corpus` wrote, and how long it took."""

    num_tokens: int
    num_bytes: int
    seconds: float
    dtype: str


def encode_corpus(
    input_paths: Paths,
    tokenizer: Tokenizer,
    output_path: str | Path,
    *,
    num_workers: int | None = None,
    progress: bool = False,
    overwrite: bool = False,
    client: "Client | None" = None,
) -> EncodeResult:
    """Encode UTF-8 text files into a one-dimensional .npy array of ids, uint16 or uint32.

    The ids of a file follow those of the file before. The output appears in full or not at all. Memory does
    not grow with the text.

    Args:
        input_paths: the text: a file or several, globs, addresses that fsspec knows, pipes, "-" for standard input;
            gzip files are decompressed.
        tokenizer: the tokenizer that encodes the text.
        output_path: the .npy file to write.
        num_workers: processes that encode; None for one per processor. The result does not depend on it.
        progress: show a progress bar on stderr.
        overwrite: replace an existing `output_path`.
        client: a Dask cluster that encodes, instead of processes of this machine. The result does not depend on it.

    Raises:
        InputError: an input is missing, empty or not UTF-8, or the output exists and `overwrite` is false.
    """
    start = time.perf_counter()
    output_path = Path(output_path)
    _refuse(output_path, overwrite)
    worker = EncodeWorker(tokenizer.stream_encoder)
    num_tokens = flushed = 0
    dtype = tokenizer.dtype.newbyteorder("<")  # the same file on every machine
    with open_texts(input_paths, "encode", output_path.parent, client is not None) as texts:
        if texts.are_pairs:
            raise InputError(f"{texts.paths[0]} holds pairs; encode them with encode_pairs")
        paths, num_bytes = texts.paths, texts.num_bytes
        if client is None:
            workers, range_size = share(num_bytes, num_workers)
            encoded = run_tasks(worker, cut_files(paths, tokenizer.pretokenizer, range_size), workers)
        else:
            paths, range_size = divide(paths, num_bytes, client)
            encoded = map_tasks(worker, cut_files(paths, tokenizer.pretokenizer, range_size), client)
        with (
            closing(encoded) as results,
            alone_at(output_path),
            published(output_path) as temporary,
            open(temporary, "wb") as file,
            progress_bar(progress, "encode", num_bytes, "B") as update,
        ):
            _refuse(output_path, overwrite)
            file.write(npy_header(0, dtype))
            for ids, done in filter(None, results):  # a worker says nothing at the end
                file.write(ids.astype(dtype, copy=False).data)
                num_tokens += len(ids)
                update(int(done[0]))
                if file.tell() - flushed > FLUSH:
                    flushed = start_to_flush(file, flushed)
            file.seek(0)
            file.write(npy_header(num_tokens, dtype))
    return EncodeResult(num_tokens, num_bytes, time.perf_counter() - start, str(tokenizer.dtype))


def _refuse(path: Path, overwrite: bool) -> None:
    if not overwrite:
        refuse_existing(path)


class EncodeWorker:
    """Encodes ranges of files; a `workers.Worker`."""

    def __init__(self, encoder: StreamEncoder) -> None:
        self._encoder = encoder

    def setup(self) -> dict[str, Any]:
        """Return the argument of `from_setup`."""
        return self._encoder.setup()

    @classmethod
    def from_setup(cls, setup: dict[str, Any]) -> Self:
        """Make a worker in another process."""
        return cls(StreamEncoder.from_setup(setup))

    def run(self, task: Task) -> Result:
        """Return the ids of a range, and its number of bytes."""
        path, start, end = task
        try:
            with open_range(path, start, end) as read:
                ids = [ids for ids, _ in self._encoder.encode(read)]
        except UnicodeDecodeError as error:
            raise InputError(not_utf8(path, start + error.start)) from None
        return [np.concatenate(ids), np.array([end - start])]

    def finish(self) -> Result:
        """Return nothing more."""
        return []


def npy_header(length: int, dtype: np.dtype) -> bytes:
    """Return the header of a one-dimensional .npy file. Its size is the same for every length.

    NumPy leaves room in the header for a length of up to 21 digits, so one header can overwrite another.
    """
    header = BytesIO()
    description = {"descr": dtype.str, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()
