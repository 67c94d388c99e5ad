"""The commands that show that both backends are one model: `lm parity`, `lm demo`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lm.cli.settings import Compiles
from tokenizer.errors import InputError


@dataclass(frozen=True)
class Parity(Compiles):
    """Compare torch, JAX and a float64 oracle, layer by layer.

    The exit code is 1 if an error is over its budget.
    """

    dtype: Literal["float64", "float32", "bfloat16"] = "float32"
    """Type of the activations."""
    cases: int = 12
    """Number of random cases of each layer. Whole models get a quarter of it. The table shows the worst case."""
    json: Path | None = None
    """JSON file to write the table to. If not given: none."""
    plot: Path | None = None
    """PNG file to draw the table to, as a heat map. If not given: none."""

    def run(self) -> None:
        from lm.files import published, refuse_existing, reserved, write_json
        from parity.run import as_json, plot, run_parity

        if not 1 <= self.cases <= 100_000:
            raise InputError(f"cases is {self.cases}: give 1 to 100,000")
        for file in (self.json, self.plot):
            if file:
                refuse_existing(file)
        errors = run_parity(self.dtype, self.cases, show=True)
        if self.json:
            with reserved(self.json):
                write_json(self.json, as_json(errors))
        if self.plot:
            with reserved(self.plot), published(self.plot) as temporary:
                plot(errors, self.dtype, temporary)
        over = sum(not error.passed for error in errors)
        print(f"{over or 'none'} of {len(errors)} comparisons over budget, in {self.dtype}")
        sys.exit(1 if over else 0)


@dataclass(frozen=True)
class Demo(Compiles):
    """Train one small model in torch and in JAX, from text to report.

    The demo writes a text, trains a tokenizer, encodes the text, trains in both backends, generates text and writes
    report.md with the curves. The same command continues a demo that was stopped.
    """

    out: Path = Path("runs/demo")
    """Folder to write."""
    input: Path | None = None
    """Text file to train on. If not given: the built-in stories."""

    def run(self) -> None:
        from lm.experiment.demo import demo

        demo(self.out, self.input)
