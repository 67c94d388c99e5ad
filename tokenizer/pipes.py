"""Reading what is no plain file: standard input, a pipe, a terminal."""

import os
import stat
import sys
import time
from collections.abc import Iterator

from tokenizer.errors import InputError

WAIT = 10.0  # seconds for somebody to write to a pipe
CHUNK = 1 << 20  # bytes


def is_pipe(path: str) -> bool:
    """Return whether bytes come from `path` only once: "-" is standard input.

    What stands in /dev and /proc may be another file in each process, so it counts as a pipe.

    Raises:
        InputError: it is a device, which may never end, or no path.
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
        InputError: it cannot be opened, or nothing comes and nobody is there to write.
    """
    if path == "-":
        stdin = getattr(sys.stdin, "buffer", None)
        if stdin is None:
            raise InputError("cannot read -: there is no standard input; give the path of a file")
        while data := stdin.read(CHUNK):
            yield data
        return
    # Without O_NONBLOCK, to open a named pipe waits for a writer for ever.
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
