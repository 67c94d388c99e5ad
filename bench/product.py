"""Time the forms of torch's product, over the weights of the tinystories model: `python -m bench product`.

A pass multiplies by every weight once, in the order of a step, so that they come from where a step would find them. The
forms take turns, and all give the same numbers, or nothing is timed.
"""

import argparse
import os
import time
from typing import Any

import numpy as np

from bench.children import progress, quartiles
from bench.contenders import SIZES
from bench.report import table
from lm.backend import DECODING_SPINS, have_threads_sleep
from lm.init import parameter_shapes
from lm.parity.budgets import BUDGETS, relative_error

SHAPES = [
    shape
    for name, shape in parameter_shapes(SIZES["tinystories"]).items()
    if len(shape) == 2 and "embeddings" not in name
]


def main(arguments: list[str]) -> None:
    """Measure and print a table, with a `*` at the forms that a step takes on this processor."""
    parser = argparse.ArgumentParser(prog="python -m bench product", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1, 2, 4, 8, 32, 512], help="sequences, or tokens, at once"
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)
    if min(options.rows) < 1:
        parser.error("argument --rows: give 1 or more")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    have_threads_sleep(DECODING_SPINS)
    import torch

    from torch_impl import product

    torch.set_num_threads(options.threads)
    forms = product.rows_first, product.weights_first, product.in_blocks, product.by_convolution
    rng = np.random.default_rng(0)
    weights = [torch.tensor(rng.standard_normal(shape), dtype=torch.float32) for shape in SHAPES]
    lines = []
    with torch.inference_mode():
        for rows in options.rows:
            inputs = [torch.tensor(rng.standard_normal((rows, d_in))).float() for _, d_in in SHAPES]
            samples = measure(forms, inputs, weights, options.rounds)
            taken = {product.quickest(rows, weight) for weight in weights}
            lines.append(
                [str(rows)] + [f"{1e3 * quartiles(samples[f])[1]:.2f}{' *' * (f in taken)}" for f in forms]
            )
    print(f"milliseconds of a pass over {sum(4 * w.numel() for w in weights) / 1e6:.0f} MB of weights\n")
    print("\n".join(table(("rows", *(form.__name__ for form in forms)), lines)))


def measure(forms: Any, inputs: list[Any], weights: list[Any], rounds: int) -> dict[Any, list[float]]:
    """Seconds of each form's passes."""
    expected = (inputs[0].double() @ weights[0].double().T).numpy()
    passes, samples = {}, {}
    for form in forms:
        error = relative_error(form(weights[0])(inputs[0]).numpy(), expected)
        assert error <= BUDGETS["float32"].forward, f"{form.__name__}: off by {error}"
        passes[form], samples[form] = [form(weight) for weight in weights], []
    for number in range(rounds):
        progress(f"{len(inputs[0])} rows: round {number + 1} of {rounds}")
        for form, multipliers in passes.items():
            for _ in range(2):  # the first brings back what another form's pass has driven out of the cache
                start = time.perf_counter()
                for multiply, x in zip(multipliers, inputs, strict=True):
                    multiply(x)
                seconds = time.perf_counter() - start
            samples[form].append(seconds)
    progress("")
    return samples
