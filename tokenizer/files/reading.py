"""Read whole files: plain or compressed by gzip, from a disk, a pipe or standard input."""

import codecs
import gzip
import os
import stat
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizer.errors import InputError
from tokenizer.files.strict_json import parse_json

WAIT = 10.0  # seconds to wait for a writer to a pipe
CHUNK = 1 << 20  # bytes


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    return parse_json(read_text(path), path)


def read_text(path: str | Path) -> str:
    """Read a UTF-8 text file. Line ends stay unchanged; the byte-order mark that some editors write is left out.

    Raises:
        InputError: the file is missing or is not UTF-8.
    """
    try:
        data = read_bytes(path)
        refuse_utf16(data, path)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(not_utf8(path, error.start)) from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def read_bytes(path: str | Path) -> bytes:
    """Read a file, a pipe, or standard input if `path` is -. A gzip file is decompressed.

    Raises:
        InputError: `path` is a device, a damaged .gz file, or not a path.
        OSError: the file cannot be read.
    """
    data = b"".join(read_pipe(str(path))) if is_pipe(str(path)) else Path(path).read_bytes()
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is a damaged .gz file: {error}; get it again") from None


def not_utf8(path: str | Path, offset: int) -> str:
    """Return the message for a file that is not UTF-8 at byte `offset`."""
    return (
        f"{path} is not UTF-8 at byte {offset}; convert it first, for example with: iconv -f LATIN1 -t UTF-8"
    )


def refuse_utf16(data: bytes, path: str | Path) -> None:
    """Refuse a file whose first bytes are those of UTF-16 or UTF-32, with a byte-order mark or without.

    Without one, every other byte of a text in most alphabets is zero.
    """
    start = data[:1000]
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if start.startswith(mark)), None)
    even, odd = start[::2], start[1::2]
    for name, zeros, others in (("UTF-16LE", odd, even), ("UTF-16BE", even, odd)):
        if not encoding and len(start) >= 8 and zeros.count(0) > 0.8 * len(zeros) > 8 * others.count(0):
            encoding = name
    if encoding:
        raise InputError(
            f"{path} is {encoding}, not UTF-8; convert it first, for example with: iconv -f {encoding} -t UTF-8"
        )


_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def is_pipe(path: str) -> bool:
    """Return whether `path` can be read only once. "-" is standard input.

    A path in /dev or /proc may be a different file in each process, so it counts as a pipe.

    Raises:
        InputError: it is a device, which may never end, or not a path.
        OSError: it does not exist.
    """
    if path == "-":
        return True
    if "\0" in path:
        raise InputError(f"cannot read {path!r}: a path cannot have a zero byte")
    mode = os.stat(path).st_mode
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        with open(path, "rb", buffering=0) as file:
            if not file.isatty():
                raise InputError(f"cannot read {path}: it is a device; give the path of a file")
    is_file = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
    return not is_file or os.path.abspath(path).startswith(("/dev/", "/proc/"))


def read_pipe(path: str) -> Iterator[bytes]:
    """Yield all bytes that come through a pipe.

    Raises:
        InputError: the pipe cannot be opened, or has no writer and nothing to read.
    """
    if path == "-":
        stdin = getattr(sys.stdin, "buffer", None)
        if stdin is None:
            raise InputError("cannot read -: there is no standard input; give the path of a file")
        while data := stdin.read(CHUNK):
            yield data
        return
    # Without O_NONBLOCK, opening a named pipe waits for a writer for ever.
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give the path of a file") from None
    with open(descriptor, "rb", buffering=0) as file:
        until = time.monotonic() + WAIT
        # A read gives None if a writer is there and has written nothing yet, b"" if there is none.
        while (start := file.read(CHUNK)) == b"":
            if time.monotonic() > until:
                raise InputError(
                    f"cannot read {path}: nothing came through it for {WAIT:g} seconds; start what writes to it, "
                    "or give the path of a file"
                )
            time.sleep(0.02)
        if start:
            yield start
        if hasattr(os, "set_blocking"):
            os.set_blocking(descriptor, True)
        while data := file.read(CHUNK):
            yield data
