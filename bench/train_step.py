"""Time a training step in JAX and in torch, ours beside torch's own parts: `python -m bench train-step`.

A step is forward, backward, clipping by the global norm and AdamW, its results awaited. Every contender is a process
of its own with the same threads and the same settings of the allocator. First each takes one step on the same
weights and the same batch: loss, gradient norm and one updated weight are compared, and where they differ by more
than the budgets of lm/budgets.py allow, nothing is timed. Then they take turns, round by round, in an order
that turns round each time; ratios are taken within a round. The peak of a matrix product is measured in the
same rounds.
"""

import argparse
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import report
from bench.children import Calls, Child, Failed, Unavailable, progress, resolve, take_turns, timed
from bench.contenders import DTYPES, SIZES, Work
from bench.machine import describe, flags, thread_count
from lm.budgets import BUDGETS, relative_error
from lm.cli.flags import Gather
from lm.files import refuse_existing
from lm.flops import train_flops_per_token
from lm.init import initial_weights
from tokenizer.errors import InputError
from tokenizer.machine import num_processors, peak_memory

CONTENDERS = {
    "jax": "bench.contenders:jax",
    "torch": "bench.contenders:torch",
    "torch compiled": "bench.contenders:torch_compiled",
    "parts": "bench.torch_parts:eager",
    "parts compiled": "bench.torch_parts:compiled",
}
BASELINE = "parts"
WORK = ("tinystories/8/float32", "tinystories/8/bfloat16", "tinystories/32/float32", "micro/8/float32")
PACKAGES = ("numpy", "torch", "jax", "jaxlib")

# Everything before the last step but the logits has a part in its gradient.
COMPARED = "layers.0.attn.q_proj.weight"


def main(arguments: list[str]) -> None:
    """Measure, print tables, write what was asked for; exit with 1 where parity fails or a contender did."""
    parser = argparse.ArgumentParser(prog="python -m bench train-step", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--work",
        nargs="+",
        action=Gather,
        default=WORK,
        help=f"SIZE/BATCH/DTYPE of {', '.join(SIZES)} and {', '.join(DTYPES)}",
    )
    parser.add_argument(
        "--contenders", nargs="+", action=Gather, choices=CONTENDERS, default=list(CONTENDERS)
    )
    parser.add_argument(
        "--also", nargs="+", action=Gather, default=[], metavar="MODULE", help="contenders.py says how"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=thread_count, default=num_processors())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--peak-flops", type=float, help="the chip's dense peak (H100 SXM in bfloat16: 989e12), for MFU"
    )
    parser.add_argument("--json", type=Path, help="write every sample, the hardware, versions and flags")
    parser.add_argument("--plot", type=Path, help="draw a bar chart (.png)")
    parser.add_argument("--markdown", type=Path, help="write the tables, for a README")
    parser.add_argument("--read", type=Path, help="measure nothing; print or draw this --json of before")
    options = parser.parse_args(arguments)
    outputs = [path for path in (options.json, options.plot, options.markdown) if path]
    for path in outputs:
        refuse_existing(path)
    result = json.loads(options.read.read_bytes().decode()) if options.read else measure(options)
    if options.json:
        report.save(result, options.json)
    print(report.text(result))
    if options.markdown:
        options.markdown.write_text(report.text(result) + "\n", encoding="utf-8", newline="")
    if options.plot:
        report.plot(result, options.plot)
    failures = [line for row in result["rows"] for line in row["failures"]]
    if failures:
        sys.exit("\n".join(failures))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that the tables and the chart show, and every sample behind it."""
    os.environ.update(OMP_NUM_THREADS=str(options.threads), NPROC=str(options.threads))
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # as JAX's are, in bench.__main__
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # contenders share one GPU
    works = [parse_work(text, options.device, options.threads) for text in options.work]
    specs = {name: CONTENDERS[name] for name in options.contenders} | {spec: spec for spec in options.also}
    rows = [measure_work(work, specs, options.rounds) for work in works]
    return {
        "command": "python -m bench train-step " + " ".join(sys.argv[2:]),
        "time": time.strftime("%Y-%m-%d %H:%M"),
        "machine": describe(PACKAGES),
        "flags": flags(),
        "device": options.device,
        "threads": options.threads,
        "peak_flops": options.peak_flops,
        "gpu": next((row["gpu"] for row in rows if "gpu" in row), None),
        "rows": rows,
    }


def parse_work(text: str, device: str, threads: int) -> Work:
    """The work that SIZE/BATCH/DTYPE names."""
    size, _, rest = text.partition("/")
    batch, _, dtype = rest.partition("/")
    if size not in SIZES or not batch.isdecimal() or not int(batch) or dtype not in DTYPES:
        raise InputError(
            f"--work {text}: give SIZE/BATCH/DTYPE, such as tinystories/8/float32, of {', '.join(SIZES)} and "
            f"{', '.join(DTYPES)}"
        )
    return Work(size, int(batch), dtype, device, threads)


def measure_work(work: Work, specs: dict[str, str], rounds: int) -> dict[str, Any]:
    """One row: first steps, their parity, then rounds of turns."""
    found: dict[str, dict[str, Any]] = {}
    children: dict[str, Child] = {}
    row: dict[str, Any] = {"work": work.name, "contenders": found, "failures": []}
    row["flops"] = (
        train_flops_per_token(work.config.model) * work.batch_size * SIZES[work.size].context_length
    )
    try:
        for name, spec in specs.items():
            progress(f"{work.name}: first step of {name}")
            children[name] = Child(make_contender, spec, work)
            found[name] = _attempt(children, name, "first", row)
        row["parity"] = compare(work, found, row["failures"])
        if row["failures"]:
            return row
        children["peak"] = Child(make_peak, work)
        row["gpu"] = children["peak"].ask("gpu")
        running = {name: partial(child.ask, "steps") for name, child in children.items()}
        samples = take_turns(running, rounds, 0.2, work.name)
        peaks = samples.pop("peak")
        row["peak_flops"] = [2 * peak_size(work.device) ** 3 / min(sample["seconds"]) for sample in peaks]
        for name, taken in samples.items():
            found[name] |= {"rounds": taken, **children[name].ask("end")}
    finally:
        for child in children.values():
            child.close()
    return row


def _attempt(children: dict[str, Child], name: str, call: str, row: dict[str, Any]) -> dict[str, Any]:
    """What the contender says, or why it says nothing; then its process is ended."""
    try:
        return children[name].ask(call)  # type: ignore[no-any-return]
    except Unavailable as reason:
        answer = {"unavailable": str(reason)}
    except Failed as reason:
        answer = {"unavailable": f"failed: {reason}"}
        row["failures"].append(f"{row['work']}: {name} failed: {reason}")
    children.pop(name).close()
    return answer


def compare(work: Work, found: dict[str, dict[str, Any]], failures: list[str]) -> dict[str, Any]:
    """How far each contender's first step is from the first contender's, beside the budgets."""
    budget = BUDGETS["float32" if work.dtype == "float32" else "bfloat16"]
    budgets = {
        "loss": budget.model_forward,
        "grad_norm": budget.model_gradient,
        "update": budget.model_gradient,
    }
    steps = {name: step for name, step in found.items() if "unavailable" not in step}
    if not steps:
        return {}
    reference_name, reference = next(iter(steps.items()))
    errors: dict[str, dict[str, float]] = {}
    for name, step in steps.items():
        errors[name] = {
            what: relative_error(np.asarray(step[what]), np.asarray(reference[what])) for what in budgets
        }
        for what, error in errors[name].items():
            if not error <= budgets[what]:
                failures.append(
                    f"{work.name}: no parity: {name}'s {what} differs from {reference_name}'s by {error:.1e}, "
                    f"more than {budgets[what]:.0e}"
                )
    for step in steps.values():
        del step["update"]  # too long for a file of results
    return {"reference": reference_name, "weight": COMPARED, "errors": errors, "budgets": budgets}


# What the processes do


def make_contender(spec: str, work: Work) -> Calls:
    """A contender's answers: its first step, more steps, its memory."""
    weights = {name: leaf[...] for name, leaf in initial_weights(work.config.model, 0, "float32")}
    ids = token_ids(work)
    inputs, targets = ids[:, :-1].copy(), ids[:, 1:].copy()
    try:
        make = resolve(spec)
    except (ImportError, AttributeError, AssertionError) as error:
        raise Unavailable(f"{spec} is not a function of a module that can be imported ({error})") from None
    start = time.perf_counter()
    try:
        step, read, device_memory = make(work, weights)
    except InputError as error:
        raise Unavailable(str(error)) from None
    before = weights[COMPARED].copy()
    weights.clear()
    made = time.perf_counter() - start

    def first() -> dict[str, Any]:
        start = time.perf_counter()
        loss, grad_norm = step(inputs, targets)
        seconds = time.perf_counter() - start
        update = read(COMPARED).astype(np.float64) - before
        return {
            "setup_seconds": made,
            "first_seconds": seconds,
            "loss": loss,
            "grad_norm": grad_norm,
            "update": update,
        }

    return {
        "first": first,
        "steps": lambda count: timed(lambda: step(inputs, targets), count),
        "end": lambda: {"peak_memory": peak_memory(), "device_memory": device_memory()},
    }


def token_ids(work: Work) -> np.ndarray:
    """The batch of every step: the inputs, and one token more."""
    shape = work.batch_size, SIZES[work.size].context_length + 1
    return np.random.default_rng(0).integers(0, SIZES[work.size].vocab_size, shape).astype(np.int32)


def peak_size(device: str) -> int:
    """Rows of the matrices whose product measures the peak."""
    return 2048 if device == "cpu" else 8192


def make_peak(work: Work) -> Calls:
    """Square matrix products in torch, in the dtype of the work."""
    import torch

    torch.set_num_threads(work.threads)
    torch.set_float32_matmul_precision("high" if work.dtype == "tf32" else "highest")
    n = peak_size(work.device)
    dtype = torch.bfloat16 if work.dtype == "bfloat16" else torch.float32
    a, b = (torch.randn(n, n, device=work.device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)

    def product() -> None:
        torch.matmul(a, b, out=out)
        if work.device != "cpu":
            torch.cuda.synchronize()

    gpu = None if work.device == "cpu" else torch.cuda.get_device_name(work.device)
    return {"steps": lambda count: timed(product, count), "gpu": lambda: gpu}
