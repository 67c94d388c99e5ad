"""The command `lm check`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from tokenizer.errors import InputError

if TYPE_CHECKING:
    from parity.check.process import Limits


@dataclass(frozen=True)
class Check:
    """Hold your functions to a float64 oracle, and name their mistakes.

    The file has functions by the course's adapter names, or by those of docs/check.md, on arrays of torch, JAX or
    NumPy. It runs in a process of its own, from the current folder. The exit code is 1 if a function is off.
    """

    file: Positional[str] = ""
    """Python file, such as tests/adapters.py, or the name of a module. With --logits: the folder of our model."""
    logits: str | None = None
    """FILE:FUNCTION that returns a whole model's logits, to compare with those of a run, or of a model that
    transformers saved. If not given: the file's functions are checked."""
    runs: tuple[Path, Path] | None = None
    """Folders of two training runs to compare. If not given: no runs."""
    hf: Path | None = None
    """Folder of a model that transformers saved, to compare transformers with our two backends: hidden states,
    logits and greedy texts. If not given: none."""
    png: Path | None = None
    """PNG file for the picture of --logits, --runs or --hf: differences by layer, or by step. If not given: none."""
    layer: tuple[str, ...] = ()
    """Subjects or functions to check, by name or part of the name. If not given: all that the file has."""
    dtype: Literal["float64", "float32", "bfloat16"] = "float32"
    """Type of the arrays. A function that refuses it is checked in float32."""
    json: Path | None = None
    """JSON file to write the verdicts to. If not given: none."""
    html: Path | None = None
    """HTML file to write the verdicts to, as one page. If not given: none."""
    python: str | None = None
    """Python that runs the file, such as .venv/bin/python of its project. If not given: the one that runs lm."""
    time_limit: float = 30.0
    """Seconds that one call may take."""
    memory_limit: float = 4.0
    """GiB of memory that the file's process may use."""

    def run(self) -> None:
        from lm.files import refuse_existing, reserved, write_json
        from lm.terminal import show
        from parity.check import text
        from parity.check.as_json import as_json
        from parity.check.page import page
        from parity.check.process import Limits
        from parity.check.run import run_check

        for name, limit in (("time-limit", self.time_limit), ("memory-limit", self.memory_limit)):
            if not limit > 0:
                raise InputError(f"{name} is {limit:g}: give a number above 0")
        for file in (self.json, self.html, self.png):
            if file:
                refuse_existing(file)
        limits = Limits(self.time_limit, int(self.memory_limit * 2**30))
        if self.hf:
            sys.exit(self._compare_hf(self.hf))
        if self.logits or self.runs:
            sys.exit(self._compare(limits))
        if not self.file:
            raise InputError("nothing to check: give a Python file, or --logits, or --runs, or --hf")
        verdicts = run_check(
            self.file,
            self.layer,
            self.dtype,
            self.python or sys.executable,
            limits,
            lambda verdict: show("\n".join(text.lines(verdict))),
        )
        if self.json:
            with reserved(self.json):
                write_json(self.json, as_json(verdicts))
        if self.html:
            self._write_html(page(self.file, text.summary(verdicts), verdicts))
        print(text.summary(verdicts))
        sys.exit(1 if any(verdict.status == "off" for verdict in verdicts) else 0)

    def _compare(self, limits: "Limits") -> int:
        """Compare whole models or runs, and return the exit code."""
        from lm.files import reserved, write_json
        from parity.check import models, runs

        if self.runs:
            of_runs = runs.run_runs(*self.runs)
            text, facts, is_off = runs.lines(of_runs), runs.as_json(of_runs), of_runs.is_off
            if self.png:
                runs.draw(of_runs, self.png)
        else:
            if not self.file:
                raise InputError(
                    "--logits needs the folder of our model: give a run or a model that transformers saved after it"
                )
            of_model = models.run_logits(
                self.logits or "", Path(self.file), self.python or sys.executable, limits
            )
            text, facts, is_off = models.lines(of_model), models.as_json(of_model), of_model.is_off
            if self.png:
                models.draw(of_model, self.png)
        if self.json:
            with reserved(self.json):
                write_json(self.json, facts)
        print("\n".join(text))
        return 1 if is_off else 0

    def _compare_hf(self, folder: Path) -> int:
        """Compare both backends with transformers, and return the exit code."""
        from lm.files import reserved, write_json
        from parity.check.hf import page, run, show

        verdict = run.run_hf(folder)
        if self.png:
            show.draw(verdict, self.png)
        if self.json:
            with reserved(self.json):
                write_json(self.json, show.as_json(verdict))
        if self.html:
            self._write_html(page.page(verdict))
        print("\n".join(show.lines(verdict)))
        return 1 if verdict.is_off else 0

    def _write_html(self, html: str) -> None:
        from lm.files import published, reserved

        assert self.html is not None
        with reserved(self.html), published(self.html) as temporary:
            Path(temporary).write_text(html, encoding="utf-8", newline="")
