"""One process of several, which tests start: `python -m tests.lm.mesh_process FOLDER < COMMANDS`.

It runs several commands one after the other, since importing a framework takes longer than any of them, and writes
down which blocks of the initial weights it has drawn. torch's processes meet in the folder, without torchrun.
"""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from lm.cli import main
from lm.init import initial_weights
from lm.rng import philox

BLOCK = 64


@contextlib.contextmanager
def small_blocks(backend: str) -> Iterator[list[tuple[str, int]]]:
    """Draw initial weights in small blocks, and list each block's stream and number."""
    drawn: list[tuple[str, int]] = []

    def counted(seed: int, *stream: Any) -> Any:
        drawn.append(stream)
        return philox(seed, *stream)

    def weights(*arguments: Any) -> Any:
        for name, leaf in initial_weights(*arguments):
            yield name, dataclasses.replace(leaf, block=BLOCK)

    with (
        mock.patch("lm.init.philox", counted),
        mock.patch(f"{backend}_impl.state.initial_weights", weights),
    ):
        yield drawn


def blocks(name: str, shape: tuple[int, ...], rows: slice) -> list[tuple[str, int]]:
    """Return the blocks that hold some of a weight's rows, in the order in which they are drawn."""
    height = max(1, BLOCK // shape[1])
    return [(f"init/{name}", number) for number in sorted({i // height for i in range(shape[0])[rows]})]


if __name__ == "__main__":
    folder, of_torch = Path(sys.argv[1]), "WORLD_SIZE" in os.environ
    if of_torch:
        from torch import distributed

        rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=count)
    else:
        rank = int(os.environ["JAX_PROCESS_ID"])
    with small_blocks("torch" if of_torch else "jax") as drawn:
        codes = []
        for command in json.load(sys.stdin):
            sys.argv = ["lm", *command]
            codes.append(main(command))
    (folder / f"drawn-{rank}.json").write_text(json.dumps(drawn))
    sys.exit(max(codes))
