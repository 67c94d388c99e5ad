"""One of two processes that start on the same folder at once: `python -m tests.lm.race_process FOLDER SEED < COMMANDS`.

It runs several commands one after the other, and writes down how each ended. Before a command's backend is loaded,
which is after it has looked whether its folder is empty, it waits for the other process.
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

if __name__ == "__main__":
    folder, seed = Path(sys.argv[1]), sys.argv[2]
    ends = []
    for number, command in enumerate(json.load(sys.stdin)):

        def load_together(*arguments: Any, number: int = number) -> Any:
            (folder / f"{number}-{seed}").touch()
            until = time.monotonic() + 60
            while len(list(folder.glob(f"{number}-*"))) < 2:
                assert time.monotonic() < until
                time.sleep(0.001)
            return backend.load(*arguments)

        said = io.StringIO()
        with mock.patch("lm.train.load", load_together), contextlib.redirect_stderr(said):
            ends.append((main([*command, "--seed", seed]), said.getvalue()))
    (folder / f"ends-{seed}.json").write_bytes(json.dumps(ends).encode())
