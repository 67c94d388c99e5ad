"""Time a training step on packed documents beside a step on joined documents: `python -m bench documents`.

All steps read the same windows. Each backend and each way is a process of its own, and they take turns, round by round.
Ratios are taken within a round. Those of processor time also hold while the machine does other work, with --threads 1.
"""

from dataclasses import replace
from functools import partial
from statistics import median

import numpy as np

from bench import options, report
from bench.children import Calls, Child, quartiles, take_turns, time_runs
from bench.contenders import Work, load_ours
from bench.machine import describe, flags
from bench.train_step import parse_work, token_ids
from lm.data.batch import Batch
from lm.data.documents import document_starts
from lm.tables import markdown_table

BACKENDS = ("jax", "torch")
END_TOKEN = 0


def main(arguments: list[str]) -> None:
    """Measure, print a table, and write JSON on demand."""
    parser = options.new_parser("documents", str(__doc__), rounds=7)
    parser.add_argument(
        "--work",
        default="tinystories/8/float32",
        help="the step, as SIZE/BATCH/DTYPE (default: tinystories/8/float32)",
    )
    parser.add_argument(
        "--length", type=int, default=200, help="mean number of tokens of a document (default: 200)"
    )
    options.add_json(parser)
    given = options.parse(parser, arguments)
    options.set_threads(given.threads)
    work = parse_work(given.work, "cpu", given.threads)
    names = [f"{backend} {way}" for backend in BACKENDS for way in ("joined", "packed")]
    children = {name: Child(make_steps, name, work, given.length) for name in names}
    try:
        calls = {name: partial(child.ask, "steps") for name, child in children.items()}
        samples = take_turns(calls, given.rounds, 0.2, work.name)
    finally:
        for child in children.values():
            child.close()
    lines = []
    for backend in BACKENDS:
        joined, packed = (
            report.seconds({"rounds": samples[f"{backend} {way}"]}) for way in ("joined", "packed")
        )
        low, middle, high = quartiles([b / a for a, b in zip(joined, packed, strict=True)])
        on_cpu = [
            median(b["cpu_seconds"]) / median(a["cpu_seconds"])
            for a, b in zip(samples[f"{backend} joined"], samples[f"{backend} packed"], strict=True)
        ]
        times = [f"{1e3 * median(seconds):.4g}" for seconds in (joined, packed)]
        ratios = [f"{middle:.3f}", f"{low:.3f} to {high:.3f}", f"{median(on_cpu):.3f}"]
        lines.append((f"{work.name} {backend}", *times, *ratios))
    head = ("", "ms joined", "ms packed", "ratio", "quartiles", "ratio of processor time")
    print(markdown_table(head, lines))
    if given.json:
        about = {"machine": describe(("numpy", "torch", "jax", "jaxlib")), "flags": flags()}
        report.save(about | {"work": work.name, "length": given.length, "samples": samples}, given.json)


def make_steps(name: str, work: Work, length: int) -> Calls:
    """Take steps on one batch: random ids, in which an end token follows `length` tokens on average.

    Args:
        name: The backend, and how it reads documents, such as "jax packed".
    """
    backend_name, documents = name.split()
    config = work.config
    if documents == "packed":
        config = replace(config, documents="packed", end_token=END_TOKEN)
    backend = load_ours(backend_name, config)
    state, step = backend.init_state(config, 0), backend.make_train_step(config)
    ids = token_ids(work)[None]
    ids[np.random.default_rng(1).random(ids.shape) < 1 / length] = END_TOKEN
    inputs = ids[..., :-1].copy()
    batch = Batch(inputs, ids[..., 1:].copy(), starts=document_starts(inputs, config))

    def take_step() -> None:
        nonlocal state
        state, metrics = step(state, batch, 1e-3)
        float(metrics["loss"])  # waits for the result

    return {"steps": lambda count: time_runs(take_step, count)}
