"""Time the forms of torch's product, over the weights of the tinystories model: `python -m bench product`.

A pass multiplies by every weight once, in the order of a step, so that they come from where a step would find them. The
forms take turns, and all give the same numbers, or nothing is timed.
"""

import argparse
import os
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from bench.children import take_turns, timed
from bench.contenders import SIZES
from bench.machine import thread_count
from bench.report import seconds
from lm.budgets import BUDGETS, relative_error
from lm.cli.flags import Gather
from lm.init import parameter_shapes
from lm.tables import markdown_table
from tokenizer.errors import InputError

SHAPES = [
    shape
    for name, shape in parameter_shapes(SIZES["tinystories"]).items()
    if len(shape) == 2 and "embeddings" not in name
]


def main(arguments: list[str]) -> None:
    """Measure and print a table, with a `*` at the forms that a step takes on this processor."""
    parser = argparse.ArgumentParser(prog="python -m bench product", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        action=Gather,
        default=[1, 2, 4, 8, 32, 512],
        help="rows at once",
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=thread_count, default=os.cpu_count())
    options = parser.parse_args(arguments)
    if min(options.rows) < 1:
        parser.error("argument --rows: give 1 or more")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import torch

    from torch_impl.fast import product

    torch.set_num_threads(options.threads)
    forms = product.rows_first, product.weights_first, product.in_blocks, product.by_convolution
    rng = np.random.default_rng(0)
    weights = [torch.tensor(rng.standard_normal(shape), dtype=torch.float32) for shape in SHAPES]
    lines = []
    with torch.inference_mode():
        for rows in options.rows:
            inputs = [torch.tensor(rng.standard_normal((rows, d_in))).float() for _, d_in in SHAPES]
            passes = {form: make_pass(form, inputs, weights) for form in forms}
            samples = take_turns(
                {form.__name__: partial(timed, run) for form, run in passes.items()},
                options.rounds,
                0.05,
                f"{rows} rows",
            )
            taken = {product.chosen(rows, weight).__name__ for weight in weights}
            cells = (
                f"{1e3 * median(seconds({'rounds': found})):.2f}{' *' * (name in taken)}"
                for name, found in samples.items()
            )
            lines.append((str(rows), *cells))
    print(f"milliseconds of a pass over {sum(4 * w.numel() for w in weights) / 1e6:.0f} MB of weights\n")
    print(markdown_table(("rows", *(form.__name__ for form in forms)), lines))


def make_pass(form: Any, inputs: list[Any], weights: list[Any]) -> Callable[[], None]:
    """Every input times its weight, in this form.

    Raises:
        InputError: its products are not those of float64.
    """
    for x, weight in zip(inputs, weights, strict=True):
        error = relative_error(form(x, weight).numpy(), (x.double() @ weight.double().T).numpy())
        if not error <= BUDGETS["float32"].forward:
            raise InputError(f"{form.__name__} is {error:.0e} away from float64: no parity, nothing timed")

    def run() -> None:
        for x, weight in zip(inputs, weights, strict=True):
            form(x, weight)

    return run
