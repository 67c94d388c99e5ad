"""What `lm check --hf` prints, its JSON and its picture."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lm.budgets import Dtype
from parity.check.hf.judge import Measured, Part, places
from parity.check.hf.run import DTYPES, HFVerdict
from parity.check.models import NUMBERS, numbers_of, precision_as_json
from parity.check.text import WIDTH

SHOWN = 12
"""Layers in a table."""


def lines(verdict: HFVerdict) -> list[str]:
    """Return what is printed."""
    out = [verdict.model, *verdict.work.lines()]
    for dtype in DTYPES:
        measured = of_dtype(verdict, dtype)
        out += [f"{dtype:20} {NUMBERS}"]
        out += [f"  {m.name:18} {numbers_of(m.precision)}" for m in measured]
    for dtype in DTYPES:
        measured = of_dtype(verdict, dtype)
        threshold = measured[0].precision.threshold
        out.append(
            f"drift of the hidden states from the float64 oracle in {dtype} (threshold {threshold:.0e}):"
        )
        out.append(f"  {'':28}" + "".join(f"{m.name:>20}" for m in measured))
        names = places(len(measured[0].precision.drift) - 1)
        for i in shown_layers(measured):
            out.append(f"  {names[i]:28}" + "".join(f"{m.precision.drift[i]:20.0e}" for m in measured))
    if verdict.shown:
        prompt, text = verdict.shown[-1]
        out += _wrapped(f"text of transformers: {prompt!r} -> {text!r}")
    for note in verdict.notes:
        out += _wrapped(f"note: {note}")
    for part in verdict.parts:
        out += _wrapped(f"{part.name + ':':11}{status(part)}: {part.told}")
    off = sum(part.is_off for part in verdict.parts)
    return [*out, f"{verdict.folder}: {f'{off} of {len(verdict.parts)} parts OFF' if off else 'pass'}"]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="    ")


def status(part: Part) -> str:
    """Return "pass" or "OFF"."""
    return "OFF" if part.is_off else "pass"


def of_dtype(verdict: HFVerdict, dtype: Dtype) -> list[Measured]:
    """Return what was measured in one type."""
    return [m for m in verdict.measured if m.precision.dtype == dtype]


def shown_layers(measured: Sequence[Measured]) -> list[int]:
    """Return places of the drift: spread evenly, with the first of each implementation that is over the threshold."""
    n = len(measured[0].precision.drift)
    chosen = {round(i) for i in np.linspace(0, n - 1, min(n, SHOWN))}
    over = {m.precision.first_off for m in measured} - {None}
    return sorted(chosen | {i for i in over if i is not None})


def as_json(verdict: HFVerdict) -> dict[str, Any]:
    """Return the verdict for --json."""
    work = verdict.work
    return {
        "folder": str(verdict.folder),
        "status": "off" if verdict.is_off else "pass",
        "model": verdict.model,
        "work": {
            "texts": list(work.sources),
            "tokens": work.questions.ids.shape[1],
            "prompts": [len(prompt) for prompt in work.questions.prompts],
            "new_tokens": work.questions.new_tokens,
            "sliding_window": work.window,
            "reaches_window": work.reaches,
        },
        "parts": [
            {"part": p.name, "status": "off" if p.is_off else "pass", "told": p.told} for p in verdict.parts
        ],
        "measured": [{"implementation": m.name, **precision_as_json(m.precision)} for m in verdict.measured],
        "texts": [
            {"prompt": list(prompt), "continuation": text}
            for prompt, text in zip(work.questions.prompts, verdict.texts.continuations, strict=True)
        ],
        "differences": [asdict(difference) for difference in verdict.differences],
        "notes": list(verdict.notes),
    }


def draw(verdict: HFVerdict, path: Path) -> None:
    """Draw the drift by layer."""
    from lm.experiment.plot import open_plot

    styles = ("-", "--", "-.", ":")
    with open_plot(path) as axes:
        for i, dtype in enumerate(DTYPES):
            for j, m in enumerate(of_dtype(verdict, dtype)):
                drift = [error or math.nan for error in m.precision.drift]
                axes.semilogy(range(len(drift)), drift, styles[j], color=f"C{i}", label=f"{m.name}, {dtype}")
        axes.set_xlabel("layer (0: embeddings)")
        axes.set_ylabel("relative error of the hidden states")
