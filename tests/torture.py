"""Kill a training run with SIGKILL at random moments, resume it each time, and see that nothing was lost.

    python -m tests.torture --kills 200

Every run that gets to its end must hold bitwise the weights, moments and metrics of one that was left alone, and
no kill may cost a step that a checkpoint held. Children are forked from a process that has imported the frameworks
but computed nothing, so that a start takes little. They have as many threads as by default, and work for several.
"""

import os
import signal
import sys
from functools import partial

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # while the modules load

import argparse
import importlib
import json
import random
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from lm.cli import main
from lm.cli.flags import Gather
from lm.terminal import open_standard_files, run_program

CONFIG = """
steps = 40
batch_size = 12
log_interval = 1
eval_interval = 10
save_interval = 1
keep_last = 3
keep_best = 1

[model]
vocab_size = 64
context_length = 64
d_model = 64
d_ff = 64
num_layers = 1
num_heads = 1

[optimizer]
warmup_steps = 5
"""


def command(folder: Path, backend: str, out: Path, *more: str) -> list[str]:
    """The command that trains."""
    data = ["--train", f"{folder}/tokens.npy", "--val", f"{folder}/tokens.npy", "--out", str(out)]
    return ["train", "--backend", backend, "--config", f"{folder}/config.toml", *data, *more]


def forked(arguments: list[str], log: Path) -> int:
    """Run a command in a child and return its process number."""
    child = os.fork()
    if child == 0:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        code = 1
        try:
            code = main(arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def ended(child: int, seconds: float, reached: Callable[[], bool] = lambda: False) -> int | None:
    """The exit status of a child that ends within this time, and before something is reached."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not reached():
        number, status = os.waitpid(child, os.WNOHANG)
        if number:
            return status
        time.sleep(0.001)
    return None


def newest(out: Path) -> int:
    """The step of the newest intact checkpoint; -1 if there is none."""
    from lm.run import checkpoint

    for path in checkpoint.find_all(out):
        return int(checkpoint.read_state(path)["iteration"])  # refuses one that is broken
    return -1


def newest_name(out: Path) -> int:
    """The step that the newest checkpoint is named after; -1 if there is none."""
    from lm.run import checkpoint

    return max((int(path.name[5:]) for path in checkpoint.find_all(out)), default=-1)


def has_reached(out: Path, step: int) -> bool:
    """Return whether a checkpoint of this step or a later one is there."""
    return newest_name(out) >= step


def result(out: Path) -> tuple[bytes, ...]:
    """Return what a finished run came to, except times."""
    from lm.run import checkpoint

    path = checkpoint.latest(out)
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    numbers = json.dumps([{k: m[k] for k in m if k != "seconds"} for m in metrics])
    return (
        numbers.encode(),
        (path / "model.safetensors").read_bytes(),
        (path / "optimizer.safetensors").read_bytes(),
    )


def torture(backend: str, kills: int, seed: int, folder: Path) -> None:
    """Kill runs of a backend `kills` times."""
    draw, log = random.Random(seed), folder / "log.txt"
    whole, out = folder / f"{backend}-whole", folder / backend
    start = time.monotonic()
    status = ended(forked(command(folder, backend, whole), log), 600)
    assert status == 0, log.read_text()
    # The start is most of it.
    duration, expected = (time.monotonic() - start) / 2, result(whole)
    done = finished = resumed = torn = 0
    while done < kills or finished == 0:
        fresh = not out.exists()
        before = newest(out)
        child = forked(command(folder, backend, out, *([] if fresh else ["--resume"])), log)
        # Most are killed while they train and save, some as they start; after the last a run is left to its end.
        if done == kills:
            status = ended(child, 600)
        elif draw.random() < 0.15:
            status = ended(child, draw.uniform(0, duration))
        else:
            status = ended(child, 600, partial(has_reached, out, before + draw.randint(1, 20)))
            time.sleep(draw.uniform(0, 0.02))
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            done += 1
            assert newest(out) >= before, f"a kill cost the checkpoint of step {before}"
            resumed += not fresh
            torn += any(out.glob("checkpoints/.*.tmp"))
        else:
            assert status == 0, log.read_text()
            assert result(out) == expected, "the run came to another end than the one left alone"
            finished += 1
            shutil.rmtree(out)
    print(
        f"{backend}: {done} kills (seed {seed}), {resumed} of resumed runs, {torn} in the middle of a save; "
        f"{finished} runs came to their end, each bitwise as one left alone; {time.monotonic() - start:.0f} s",
        flush=True,
    )


def run() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, help="kills a backend")
    parser.add_argument("--backend", nargs="+", action=Gather, default=["torch", "jax"])
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    options = parser.parse_args()
    # Threads that wait by spinning would cost whatever runs beside this.
    os.environ |= {"JAX_PLATFORMS": "cpu", "GOMP_SPINCOUNT": "0"}
    for name in ("OMP_NUM_THREADS", "NPROC"):  # as the tests are run
        os.environ.pop(name, None)
    warnings.filterwarnings("ignore", message=".*os.fork")
    # Use a disk in memory if the system has one. A kill leaves what it leaves on any disk, and memory is much faster.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        # What the run that is left alone has compiled serves those that are killed.
        os.environ |= {
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        for backend in options.backend:
            importlib.import_module(f"{backend}_impl.backend")
        import numpy as np

        (folder / "config.toml").write_text(CONFIG)
        np.save(folder / "tokens.npy", np.random.default_rng(0).integers(0, 64, 500).astype(np.uint16))
        for backend in options.backend:
            torture(backend, options.kills, options.seed, folder)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    open_standard_files()
    sys.exit(run_program("torture", run))
