"""Time the forms of torch's product over the weights of the tinystories model: `python -m bench product`.

A pass multiplies by every weight once, in the order of a step, so that caches hold as much of them as in a step. The
forms take turns. All must give the same numbers, or nothing is timed.
"""

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from bench import options
from bench.children import take_turns, time_runs
from bench.contenders import SIZES
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
    """Measure and print a table. A `*` marks the forms that a step takes on this processor."""
    parser = options.new_parser("product", str(__doc__), rounds=9)
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        action=Gather,
        default=[1, 2, 4, 8, 32, 512],
        help="rows of the input (default: 1 2 4 8 32 512)",
    )
    given = options.parse(parser, arguments)
    if min(given.rows) < 1:
        parser.error("argument --rows: give 1 or more")
    options.set_threads(given.threads)
    import torch

    from torch_impl.fast import product

    torch.set_num_threads(given.threads)
    forms = product.rows_first, product.weights_first, product.in_blocks, product.by_convolution
    rng = np.random.default_rng(0)
    weights = [torch.tensor(rng.standard_normal(shape), dtype=torch.float32) for shape in SHAPES]
    lines = []
    with torch.inference_mode():
        for rows in given.rows:
            inputs = [torch.tensor(rng.standard_normal((rows, d_in))).float() for _, d_in in SHAPES]
            passes = {form: make_pass(form, inputs, weights) for form in forms}
            samples = take_turns(
                {form.__name__: partial(time_runs, run) for form, run in passes.items()},
                given.rounds,
                0.05,
                f"{rows} rows",
            )
            taken = {product.chosen(rows, weight).__name__ for weight in weights}
            cells = (
                f"{1e3 * median(seconds({'rounds': found})):.2f}{' *' * (name in taken)}"
                for name, found in samples.items()
            )
            lines.append((str(rows), *cells))
    print(f"milliseconds for a pass over {sum(4 * w.numel() for w in weights) / 1e6:.0f} MB of weights\n")
    print(markdown_table(("rows", *(form.__name__ for form in forms)), lines))


def make_pass(form: Any, inputs: list[Any], weights: list[Any]) -> Callable[[], None]:
    """Return a function that multiplies every input by its weight, in this form.

    Raises:
        InputError: The products differ from those in float64.
    """
    for x, weight in zip(inputs, weights, strict=True):
        error = relative_error(form(x, weight).numpy(), (x.double() @ weight.double().T).numpy())
        if not error <= BUDGETS["float32"].forward:
            raise InputError(
                f"{form.__name__} differs from float64 by {error:.0e}: nothing is timed without parity"
            )

    def run() -> None:
        for x, weight in zip(inputs, weights, strict=True):
            form(x, weight)

    return run
