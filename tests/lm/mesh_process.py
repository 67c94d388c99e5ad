"""One process of several, which tests start without torchrun: `python -m tests.lm.mesh_process STORE < COMMANDS`.

It runs several commands one after the other, since importing torch takes longer than any of them.
"""

import json
import os
import sys

from torch import distributed

from lm.cli import main

if __name__ == "__main__":
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    distributed.init_process_group("gloo", f"file://{sys.argv[1]}", rank=rank, world_size=count)
    sys.exit(max(main(command) for command in json.load(sys.stdin)))
