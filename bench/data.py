"""Time the making of batches, alone and as a share of a step: `python -m bench data`.

Training makes batches in a thread while the step before them computes (`lm.data.batch.prefetch`), so that
even this share is hidden, where a processor is free.
"""

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from bench import report
from bench.children import Calls, Child, quartiles, take_turns, timed
from bench.contenders import SIZES, Work
from bench.machine import describe, flags, thread_count
from bench.train_step import CONTENDERS, make_contender, parse_work
from lm.data.token_files import open_tokens
from lm.data.windows import get_batch
from lm.files import refuse_existing
from lm.tables import markdown_table
from tokenizer.machine import num_processors


def main(arguments: list[str]) -> None:
    """Measure, print a table, write JSON if asked to."""
    parser = argparse.ArgumentParser(prog="python -m bench data", description=__doc__.split("\n")[0])
    parser.add_argument("--work", default="tinystories/8/float32", help="SIZE/BATCH/DTYPE of the step")
    parser.add_argument(
        "--tokens", type=int, default=50_000_000, help="of the token file, made of random ids"
    )
    parser.add_argument("--threads", type=thread_count, default=num_processors())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every sample, the hardware, versions and flags")
    options = parser.parse_args(arguments)
    if options.json:
        refuse_existing(options.json)
    os.environ.update(OMP_NUM_THREADS=str(options.threads), NPROC=str(options.threads))
    work = parse_work(options.work, "cpu", options.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.npy"
        rng = np.random.default_rng(0)
        np.save(path, rng.integers(0, SIZES[work.size].vocab_size, options.tokens).astype(np.uint16))
        children = {
            "batch": Child(make_batches, path, work),
            **{name: Child(make_contender, CONTENDERS[name], work) for name in ("jax", "torch")},
        }
        try:
            samples = take_turns(
                {n: partial(c.ask, "steps") for n, c in children.items()}, options.rounds, 0.2, work.name
            )
        finally:
            for child in children.values():
                child.close()
    batch = {"rounds": samples.pop("batch")}
    ms = 1e3 * median(report.seconds(batch))
    lines = [
        (
            f"{work.name} {name}",
            f"{ms:.3f}",
            f"{1e3 * median(report.seconds({'rounds': taken})):.4g}",
            f"{share:.2%}",
        )
        for name, taken in samples.items()
        for share in [quartiles(report.seconds(batch))[1] / median(report.seconds({"rounds": taken}))]
    ]
    print(markdown_table(("", "ms a batch", "ms a step", "share"), lines))
    if options.json:
        about = {
            "machine": describe(("numpy", "torch", "jax", "jaxlib")),
            "flags": flags(),
            "work": work.name,
        }
        report.save(about | {"samples": samples | batch}, options.json)


def make_batches(path: Path, work: Work) -> Calls:
    """Batches of the steps after one another, from a file of tokens."""
    config = work.config
    tokens = open_tokens(path, config.model.vocab_size, config.model.context_length)
    steps = iter(range(1 << 62))

    def batch() -> object:
        return get_batch(tokens, 0, next(steps), config.batch_size, config.model.context_length)

    return {"steps": lambda count: timed(batch, count)}
