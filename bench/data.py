"""Time the making of batches, alone and as a share of a step: `python -m bench data`.

Training makes batches in a thread while the step before computes (`prefetched` in lm/data). If a processor is free,
even this share costs nothing.
"""

import tempfile
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median

import numpy as np

from bench import options, report
from bench.children import Calls, Child, take_turns, time_runs
from bench.contenders import Work
from bench.machine import describe, flags
from bench.train_step import CONTENDERS, make_contender, parse_work
from lm.data.token_files import open_tokens
from lm.data.windows import get_batch
from lm.tables import markdown_table


def main(arguments: list[str]) -> None:
    """Measure, print a table, and write JSON on demand."""
    parser = options.new_parser("data", str(__doc__), rounds=5)
    parser.add_argument(
        "--work",
        default="tinystories/8/float32",
        help="the step, as SIZE/BATCH/DTYPE (default: tinystories/8/float32)",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        default=50_000_000,
        help="random ids in the token file (default: 50,000,000)",
    )
    options.add_json(parser)
    given = options.parse(parser, arguments)
    options.set_threads(given.threads)
    work = parse_work(given.work, "cpu", given.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.npy"
        rng = np.random.default_rng(0)
        np.save(path, rng.integers(0, work.model.vocab_size, given.tokens).astype(np.uint16))
        children = {
            "batch": Child(make_batches, path, work),
            **{name: Child(make_contender, CONTENDERS[name], work) for name in ("jax", "torch")},
        }
        try:
            samples = take_turns(
                {n: partial(c.ask, "steps") for n, c in children.items()}, given.rounds, 0.2, work.name
            )
        finally:
            for child in children.values():
                child.close()
    seconds = {name: median(report.seconds({"rounds": taken})) for name, taken in samples.items()}
    batch = seconds.pop("batch")
    lines = [
        (f"{work.name} {name}", f"{1e3 * batch:.3f}", f"{1e3 * step:.4g}", f"{batch / step:.2%}")
        for name, step in seconds.items()
    ]
    print(markdown_table(("", "ms a batch", "ms a step", "share"), lines))
    if given.json:
        about = {"machine": describe(("numpy", "torch", "jax", "jaxlib")), "flags": flags()}
        report.save(about | {"work": work.name, "samples": samples}, given.json)


def make_batches(path: Path, work: Work) -> Calls:
    """Make the batches of successive steps from a token file."""
    config = work.config
    tokens = open_tokens(path, config.model.vocab_size, config.model.context_length)
    steps = count()

    def batch() -> object:
        return get_batch(tokens, 0, next(steps), config.batch_size, config.model.context_length)

    return {"steps": lambda count: time_runs(batch, count)}
