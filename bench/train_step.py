"""Time a training step of both backends beside the torch.nn baseline: `python -m bench train-step`.

A step is forward, backward, clipping by the global norm and AdamW, until the results are there. Every contender is a
process of its own with the same number of threads. First each takes one step from the same weights on the same batch,
and loss, gradient norm and one updated weight are compared. If they differ by more than the budgets of lm/budgets.py,
nothing is timed. Then the contenders take turns, round by round, in an order that is reversed after each round. Ratios
are taken within a round. The peak of a matrix product is measured in the same rounds.
"""

import argparse
import os
import re
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import options, report
from bench.children import (
    Calls,
    Child,
    Failed,
    Unavailable,
    resolve,
    show_progress,
    take_turns,
    time_runs,
)
from bench.contenders import DTYPES, SIZES, Work
from bench.machine import describe, flags
from lm.budgets import BUDGETS, relative_error
from lm.cli.flags import Gather
from lm.flops import train_flops_per_token
from lm.init import initial_weights
from tokenizer.errors import InputError
from tokenizer.machine import peak_memory

CONTENDERS = {
    "jax": "bench.contenders:jax",
    "torch": "bench.contenders:torch",
    "torch compiled": "bench.contenders:torch_compiled",
    "baseline": "bench.torch_baseline:eager",
    "baseline compiled": "bench.torch_baseline:compiled",
}
WORK = (
    "tinystories/8/float32",
    "tinystories/8/bfloat16",
    "tinystories/32/float32",
    "tinystories@1024/2/float32",
    "tinystories@4096/1/float32",
    "micro/8/float32",
)
PACKAGES = ("numpy", "torch", "jax", "jaxlib")

# The gradient of this weight passes through every layer.
COMPARED = "layers.0.attn.q_proj.weight"


def main(arguments: list[str]) -> None:
    """Measure, print tables, and write files on demand. Exit with 1 if parity or a contender failed."""
    parser = options.new_parser("train-step", str(__doc__), rounds=7)
    parser.add_argument(
        "--work",
        nargs="+",
        action=Gather,
        default=WORK,
        help=f"steps, as SIZE/BATCH/DTYPE or SIZE@CONTEXT/BATCH/DTYPE with a size of {', '.join(SIZES)} and a dtype of "
        f"{', '.join(DTYPES)} "
        f"(default: {' '.join(WORK)})",
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        action=Gather,
        choices=CONTENDERS,
        default=list(CONTENDERS),
        help="what to time (default: all)",
    )
    parser.add_argument(
        "--also",
        nargs="+",
        action=Gather,
        default=[],
        metavar="MODULE",
        help="modules with further contenders (bench/contenders.py shows one)",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument(
        "--peak-flops", type=float, help="the chip's dense peak, to print MFU (H100 SXM in bfloat16: 989e12)"
    )
    options.add_json(parser)
    parser.add_argument("--plot", type=Path, help="draw a bar chart to this .png file")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    parser.add_argument(
        "--read", type=Path, help="measure nothing, and print or draw the results of this JSON file"
    )
    given = options.parse(parser, arguments)
    result = report.publish(given, measure, report.text)
    if given.plot:
        report.plot(result, given.plot)
    failures = [line for row in result["rows"] for line in row["failures"]]
    if failures:
        sys.exit("\n".join(failures))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that the tables and the chart show, and return it with every sample."""
    options.set_threads(given.threads)
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # bench.__main__ turns JAX's cache off, too
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # contenders share one GPU
    works = [parse_work(text, given.device, given.threads) for text in given.work]
    specs = {name: CONTENDERS[name] for name in given.contenders} | {spec: spec for spec in given.also}
    rows = [measure_work(work, specs, given.rounds) for work in works]
    return {
        "command": "python -m bench train-step " + " ".join(sys.argv[2:]),
        "time": time.strftime("%Y-%m-%d %H:%M"),
        "machine": describe(PACKAGES),
        "flags": flags(),
        "device": given.device,
        "threads": given.threads,
        "peak_flops": given.peak_flops,
        "gpu": next((row["gpu"] for row in rows if "gpu" in row), None),
        "rows": rows,
    }


def parse_work(text: str, device: str, threads: int) -> Work:
    """Return the work that SIZE/BATCH/DTYPE or SIZE@CONTEXT/BATCH/DTYPE names.

    Raises:
        InputError: The text does not name one.
    """
    found = re.fullmatch(r"([^@/]+)(?:@0*([1-9]\d*))?/0*([1-9]\d*)/([^/]+)", text, re.ASCII)
    if found is None or found[1] not in SIZES or found[4] not in DTYPES:
        raise InputError(
            f"--work {text}: give SIZE/BATCH/DTYPE or SIZE@CONTEXT/BATCH/DTYPE, such as tinystories/8/float32 or "
            f"tinystories@4096/1/float32, with a size of {', '.join(SIZES)} and a dtype of {', '.join(DTYPES)}"
        )
    size, context, batch, dtype = found.groups()
    model = SIZES[size] if context is None else replace(SIZES[size], context_length=int(context))
    return Work(text, model, int(batch), dtype, device, threads)


def measure_work(work: Work, specs: dict[str, str], rounds: int) -> dict[str, Any]:
    """Measure one row: first steps, their parity, then the timed rounds."""
    found: dict[str, dict[str, Any]] = {}
    children: dict[str, Child] = {}
    row: dict[str, Any] = {"work": work.name, "contenders": found, "failures": []}
    row["flops"] = train_flops_per_token(work.model) * work.batch_size * work.model.context_length
    try:
        for name, spec in specs.items():
            show_progress(f"{work.name}: first step of {name}")
            children[name] = Child(make_contender, spec, work)
            found[name] = _ask_or_drop(children, name, "first", row)
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


def _ask_or_drop(children: dict[str, Child], name: str, call: str, row: dict[str, Any]) -> dict[str, Any]:
    """Return the contender's answer. If it has none, return the reason and end its process."""
    try:
        answer: dict[str, Any] = children[name].ask(call)
        return answer
    except Unavailable as reason:
        answer = {"unavailable": str(reason)}
    except Failed as reason:
        answer = {"unavailable": f"failed: {reason}"}
        row["failures"].append(f"{row['work']}: {name} failed: {reason}")
    children.pop(name).close()
    return answer


def compare(work: Work, found: dict[str, dict[str, Any]], failures: list[str]) -> dict[str, Any]:
    """Return the errors of each contender's first step against the first contender's, and the budgets."""
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
        del step["update"]  # too large for the results file
    return {"reference": reference_name, "weight": COMPARED, "errors": errors, "budgets": budgets}


# What the child processes do


def make_contender(spec: str, work: Work) -> Calls:
    """Return the functions of a contender: its first step, more steps, and its memory."""
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
        "steps": lambda count: time_runs(lambda: step(inputs, targets), count),
        "end": lambda: {"peak_memory": peak_memory(), "device_memory": device_memory()},
    }


def token_ids(work: Work) -> np.ndarray:
    """Return the batch of every step: the inputs and one token more."""
    shape = work.batch_size, work.model.context_length + 1
    return np.random.default_rng(0).integers(0, work.model.vocab_size, shape).astype(np.int32)


def peak_size(device: str) -> int:
    """Return the number of rows of the square matrices whose product measures the peak."""
    return 2048 if device == "cpu" else 8192


def make_peak(work: Work) -> Calls:
    """Return the functions that time square matrix products in torch, in the dtype of the work."""
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
    return {"steps": lambda count: time_runs(product, count), "gpu": lambda: gpu}
