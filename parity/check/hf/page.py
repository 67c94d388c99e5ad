"""The page of `lm check --hf --html`: one file without scripts or external resources."""

import math
from collections.abc import Sequence
from html import escape

from lm.budgets import Dtype
from parity.check.hf.judge import Measured, places
from parity.check.hf.run import DTYPES, HFVerdict
from parity.check.hf.show import of_dtype, shown_layers, status
from parity.check.page import LEGEND, document, error_cells

WIDTH, HEIGHT, LEFT, BOTTOM = 820, 220, 44, 24
"""Sizes of a chart, and of the margins with the scales."""


def page(verdict: HFVerdict) -> str:
    """Return the page."""
    off = sum(part.is_off for part in verdict.parts)
    summary = f"{off} of {len(verdict.parts)} parts off" if off else "both backends agree with transformers"
    body = [
        f"<p>{escape(verdict.model)}<br>{'<br>'.join(map(escape, verdict.work.lines()))}</p>",
        _parts(verdict),
        *(_numbers(dtype, of_dtype(verdict, dtype)) for dtype in DTYPES),
        _texts(verdict),
        _notes(verdict.notes),
    ]
    return document(f"--hf {verdict.folder}", summary, "\n".join(body))


def _parts(verdict: HFVerdict) -> str:
    rows = "".join(
        f'<tr><td>{part.name}</td><td class="{"off" if part.is_off else "pass"}">{status(part)}</td>'
        f"<td>{escape(part.told)}</td></tr>"
        for part in verdict.parts
    )
    return f"<div class=scroll><table>{rows}</table></div>"


def _numbers(dtype: Dtype, measured: Sequence[Measured]) -> str:
    """Return the logits' errors and the drift in one type."""
    rows = "".join(
        f"<tr><td>{escape(m.name)}</td>{error_cells(p.error, p.threshold)}<td class=number>{p.kl:.0e}</td>"
        f"<td class=number>{p.top1:.1%}</td><td class=number>{p.top5:.1%}</td></tr>"
        for m in measured
        for p in [m.precision]
    )
    head = "<tr><th></th><th>logits</th><th></th><th>KL, nats</th><th>top-1</th><th>top-5</th></tr>"
    return (
        f"<h2>{dtype}</h2>{LEGEND}<div class=scroll><table>{head}{rows}</table></div>"
        f"<h3>Drift of the hidden states</h3>{_chart(measured)}{_drift(measured)}"
    )


def _drift(measured: Sequence[Measured]) -> str:
    names = places(len(measured[0].precision.drift) - 1)
    head = "".join(f"<th>{escape(m.name)}</th>" for m in measured)
    rows = "".join(
        f"<tr><td>{names[i]}</td>"
        + "".join(f"<td class=number>{m.precision.drift[i]:.0e}</td>" for m in measured)
        + "</tr>"
        for i in shown_layers(measured)
    )
    table = f"<div class=scroll><table><tr><th></th>{head}</tr>{rows}</table></div>"
    return f"<details><summary>The numbers</summary>{table}</details>"


def _chart(measured: Sequence[Measured]) -> str:
    """Return a picture of the drift by layer, on a logarithmic scale, with the threshold as a dashed line."""
    threshold, n = measured[0].precision.threshold, len(measured[0].precision.drift)
    errors = [e for m in measured for e in m.precision.drift if 0 < e < math.inf]
    low = math.floor(math.log10(min([*errors, threshold])))
    high = math.ceil(math.log10(max([*errors, threshold]) * 1.01))

    def x(i: int) -> float:
        return LEFT + (WIDTH - LEFT - 8) * i / max(n - 1, 1)

    def y(error: float) -> float:
        log = math.log10(min(max(error, 10.0**low), 10.0**high)) if error == error else high
        return 8 + (HEIGHT - BOTTOM - 8) * (high - log) / (high - low)

    parts = [
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - 8}" y1="{y(10.0**k):.1f}" y2="{y(10.0**k):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y(10.0**k) + 4:.1f}" text-anchor="end">1e{k}</text>'
        for k in range(low, high + 1, 1 + (high - low) // 6)
    ]
    parts += [
        f'<text x="{x(i):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{i}</text>'
        for i in range(0, n, 1 + (n - 1) // 16)
    ]
    at = y(threshold)
    parts.append(
        f'<line class="budget" stroke-dasharray="4 4" x1="{LEFT}" x2="{WIDTH - 8}" y1="{at:.1f}" y2="{at:.1f}"/>'
    )
    for j, m in enumerate(measured):
        points = " ".join(f"{x(i):.1f},{y(error):.1f}" for i, error in enumerate(m.precision.drift))
        parts.append(f'<polyline class="line{j}" points="{points}"/>')
    keys = " ".join(f'<span class="key{j}">{escape(m.name)}</span>' for j, m in enumerate(measured))
    label = "drift of the hidden states by layer"
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
        f'<p class="soft keys">{keys} <span>layer, 0: embeddings; dashed: threshold</span></p>'
    )


def _texts(verdict: HFVerdict) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(prompt)}</code></td><td><code>{escape(text)}</code></td></tr>"
        for prompt, text in verdict.shown
    )
    differences = "".join(
        f"<li>{escape(d.name)}: token {d.step} after the prompt of {d.prompt:,} tokens is {d.ours}; transformers has "
        f"{d.theirs}, whose logit is {d.gap:.1g} higher{', a near tie' if d.is_tie else ''}</li>"
        for d in verdict.differences
    )
    head = "<tr><th>prompt</th><th>continuation of transformers</th></tr>"
    told = f"<ul>{differences}</ul>" if differences else ""
    return f"<h2>text</h2><div class=scroll><table>{head}{rows}</table></div>{told}"


def _notes(notes: Sequence[str]) -> str:
    return f"<h2>Notes</h2><ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else ""
