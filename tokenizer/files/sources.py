"""The text files to read: local ones, and by fsspec those of any storage that it knows."""

import glob
import gzip
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from tokenizer.errors import InputError
from tokenizer.files.reading import CHUNK, is_pipe, read_pipe, refuse_utf16

# One file or several. What holds :// is read by fsspec, and "-" is standard input.
Paths = str | Path | Iterable[str | Path]

COMPRESSED = {
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"\xfd7zXZ\x00": "unxz",
    b"BZh91AY&SY": "bunzip2",
    b"PK\x03\x04": "unzip",
    b"\x1f\x8b": "gunzip",
}


@dataclass(frozen=True)
class Texts:
    """Files of text that can be read in parts, by any process of this machine."""

    paths: list[str]
    num_bytes: int  # of all files
    are_pairs: bool  # whether each line is a pair


def are_pairs(paths: Paths) -> bool:
    """Return whether files hold pairs, one per line. Such files are named .jsonl or .jsonl.gz.

    Raises:
        InputError: some files hold pairs and some do not.
    """
    return _are_pairs(_find(paths))


def is_pairs(path: str) -> bool:
    """Return whether a file holds pairs, by its name."""
    return path.removesuffix(".gz").endswith(".jsonl")


@contextmanager
def open_texts(
    paths: Paths, purpose: str, folder: Path | None = None, on_cluster: bool = False
) -> Iterator[Texts]:
    """Yield the files that paths and globs stand for, in order.

    Text from a pipe or from gzip is kept in temporary files while it is needed.

    Args:
        paths: files, globs, addresses that fsspec knows, and "-" for standard input.
        purpose: what the text is for. Messages say it.
        folder: the folder for temporary files; without it, the system's own.
        on_cluster: other machines read the files. They cannot read temporary files.

    Raises:
        InputError: a file cannot be read or begins with bytes that are not UTF-8, all files are empty, or some hold
            pairs and some text.
    """
    found = _find(paths)
    pairs = _are_pairs(found)
    with ExitStack() as stack:
        plain = _Plain(stack, folder, on_cluster, ".jsonl" if pairs else ".txt")
        opened = [plain.file(path) for path in found]
        num_bytes = sum(size for _, size in opened)
        if num_bytes == 0:
            raise InputError(f"{', '.join(found)} is empty; give a file with text to {purpose}")
        try:
            yield Texts([path for path, _ in opened], num_bytes, pairs)
        except InputError as error:
            message = str(error)
            for given, (path, _) in zip(found, opened, strict=True):
                message = message.replace(path, given)
            raise InputError(message) from None


class _Plain:
    """Writes pipes and compressed files into plain files."""

    def __init__(self, stack: ExitStack, folder: Path | None, on_cluster: bool, suffix: str) -> None:
        self._stack, self._on_cluster, self._suffix = stack, on_cluster, suffix
        self._folder = folder if folder and folder.is_dir() else None

    def file(self, path: str) -> tuple[str, int]:
        """Return a plain file with the text of `path`, and its number of bytes."""
        plain = path
        try:
            if "://" not in path and is_pipe(path):
                plain = self._write(path, read_pipe(path), "a pipe")
            with open_source(plain) as file:
                if file.read(2) == b"\x1f\x8b":
                    file.seek(0)
                    plain = self._write(path, _gunzip(path, file), "compressed")
        except OSError as error:
            raise _unreadable(path, error) from None
        with open_source(plain) as file:
            start, size = file.read(1000), file.seek(0, os.SEEK_END)
        refuse_utf16(start, path)
        for magic, program in COMPRESSED.items():
            if start.startswith(magic):
                raise InputError(f"{path} is compressed; decompress it first with {program}")
        return plain, size

    def _write(self, path: str, chunks: Iterable[bytes], kind: str) -> str:
        if self._on_cluster:
            raise InputError(
                f"{path} is {kind}, which the machines of a Dask cluster cannot share; write the text to a file first"
            )
        try:
            temporary = TemporaryDirectory(prefix=".text-", suffix=".tmp", dir=self._folder)
            plain = Path(self._stack.enter_context(temporary)) / f"text{self._suffix}"
            with plain.open("wb") as file:
                file.writelines(chunks)
        except OSError as error:
            folder = self._folder or tempfile.gettempdir()
            raise InputError(
                f"cannot keep the text of {path} in {folder}: {error.strerror}; write it to a file first"
            ) from None
        return str(plain)


def _gunzip(path: str, file: BinaryIO) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=file) as content:
            while data := content.read(CHUNK):
                yield data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is a damaged .gz file: {error}; get it again") from None


def _find(paths: Paths) -> list[str]:
    given = [paths] if isinstance(paths, str | Path) else paths
    found = [file for path in given for file in find_files(str(path))]
    if not found:
        raise InputError("no text is given; name at least one file")
    return found


def _are_pairs(found: list[str]) -> bool:
    pairs = [is_pairs(path) for path in found]
    if any(pairs) and not all(pairs):
        raise InputError(
            f"{found[pairs.index(True)]} holds pairs (.jsonl), {found[pairs.index(False)]} does not; "
            "take them one kind at a time"
        )
    return all(pairs)


def open_source(path: str, read_ahead: int = 1 << 13) -> BinaryIO:
    """Open a file to read bytes. From another machine, each read fetches `read_ahead` more bytes than asked for.

    Raises:
        InputError: it cannot be read.
    """
    try:
        if "://" not in path:
            return open(path, "rb", buffering=0)
        file_system, name = _file_system(path)
        return file_system.open(name, "rb", block_size=read_ahead, cache_type="readahead")
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: OSError) -> InputError:
    reason = error.strerror or type(error).__name__
    return InputError(f"cannot read {path}: {reason}; give the path of a text file")


def find_files(path: str) -> list[str]:
    """Return the files that a glob matches. Return the path itself if it is no glob, or if nothing matches."""
    if "://" not in path:
        return [path] if os.path.exists(path) else sorted(glob.glob(path)) or [path]
    if not glob.has_magic(path):
        return [path]
    file_system, name = _file_system(path)
    return sorted(map(file_system.unstrip_protocol, file_system.glob(name))) or [path]


def _file_system(path: str) -> Any:
    """Return the file system that an address is in, and the file's name there."""
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError:
        raise InputError(
            f"reading {path} needs fsspec; install it with: pip install 'twinlm[dask]'"
        ) from None
    try:
        return url_to_fs(path)
    except (ImportError, ValueError) as error:  # this storage needs another package, or does not exist
        raise InputError(f"cannot read {path}: {error}") from None
