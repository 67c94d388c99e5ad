"""One of two processes that start on the same folder at once: `python -m tests.lm.race_process FOLDER SEED < COMMANDS`.

It runs several commands one after the other, and writes down how each ended. Before a command's backend is loaded,
which is after a first look whether its folder is empty, it waits for the other process: in every other command until
that has looked, in the rest, if it has the greater seed, until that has ended.
"""

import contextlib
import io
import json
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

from lm import backend
from lm.cli import main
from tests.lm.processes import SECONDS


def wait_for(path: Path) -> None:
    """Wait until a file exists."""
    until = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.001)


if __name__ == "__main__":
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    other = 1 - seed
    ends = []
    for number, command in enumerate(json.load(sys.stdin)):

        def load_in_turn(*arguments: Any, number: int = number) -> Any:
            (folder / f"looked-{number}-{seed}").touch()
            wait_for(folder / f"looked-{number}-{other}")
            if number % 2 and seed > other:
                wait_for(folder / f"ended-{number}-{other}")
            return backend.load(*arguments)

        said = io.StringIO()
        with mock.patch("lm.run.opening.load", load_in_turn), contextlib.redirect_stderr(said):
            ends.append((main([*command, "--seed", str(seed)]), said.getvalue()))
        (folder / f"ended-{number}-{seed}").touch()
    (folder / f"ends-{seed}.json").write_bytes(json.dumps(ends).encode())
