"""The page of `lm check --html`: one file without scripts or external resources, to send to a colleague."""

import math
from collections.abc import Sequence
from html import escape
from importlib import resources
from typing import Any

from parity.check.answer import Finding, Verdict

SMALLEST = 1e-16
"""Left end of the line that shows an error. The right end is 1."""
LEGEND = (
    "<p class=soft>Errors are relative to the norm of the exact result, which is computed in float64. The line shows "
    "them from 1e-16 to 1; the stroke is the budget.</p>"
)


def page(target: str, summary: str, verdicts: Sequence[Verdict]) -> str:
    """Return the page about the functions of a file, with a summary as its title."""
    rows = "\n".join(_row(verdict) for verdict in verdicts)
    head = "<tr><th>function</th><th></th><th>output</th><th></th><th>gradients</th><th></th></tr>"
    parts = [
        *(_section(verdict) for verdict in verdicts if verdict.status == "off"),
        f"<h2>All functions</h2>\n{LEGEND}",
        f"<div class=scroll><table>\n{head}\n{rows}\n</table></div>",
        _notes(verdicts),
    ]
    return document(target, summary, "\n".join(parts))


def document(target: str, summary: str, body: str) -> str:
    """Return a whole page in the style of `lm check`. The body is HTML, the target and the summary are text."""
    template = resources.files("parity.check").joinpath("page.html").read_text(encoding="utf-8")
    parts = {"TARGET": escape(target), "SUMMARY": escape(summary), "BODY": body}
    # The parts are put in at once, so that nobody's text is taken for a part's place.
    pieces = template.split("{{")
    return pieces[0] + "".join(parts[name] + rest for name, rest in (p.split("}}", 1) for p in pieces[1:]))


def _section(verdict: Verdict) -> str:
    """Return what is wrong with one function: the diagnosis, the smallest case, the findings."""
    title = f"<h3><code>{escape(verdict.function)}</code> <span class=off>OFF</span></h3>"
    diagnosis = verdict.diagnosis.as_json() if verdict.diagnosis else {}
    code = diagnosis.get("smallest_failing_case", "")
    smallest = f"<p>Smallest failing case:</p><pre>{escape(code)}</pre>" if code else ""
    return (
        f"<section>{title}{_diagnosis(verdict, diagnosis)}{smallest}{_findings(verdict.findings)}</section>"
    )


def _diagnosis(verdict: Verdict, diagnosis: dict[str, Any]) -> str:
    mistakes = diagnosis.get("mistakes", [])
    sets = [[mistake] for mistake in mistakes] or diagnosis.get("one_of", [])
    if not sets:
        lines = [f"<li>{escape(sentence)}</li>" for sentence in diagnosis.get("measured", [])]
        measured = f"<p>It was measured that:</p><ul>{''.join(lines)}</ul>" if lines else ""
        return f"<p>No known mistake fits.</p>{measured}" if verdict.diagnosis else ""
    one_of = "" if mistakes else "<p>It is one of these mistakes. No case told them apart.</p>"
    above = diagnosis.get("found_above", [])
    named = "".join(_mistake(m, m["name"] in above) for together in sets for m in together)
    agreement, unseen = diagnosis.get("agreement"), diagnosis.get("gradients_not_seen", [])
    change = "these changes" if len(mistakes) > 1 else "this change"
    if agreement is None:
        return one_of + named
    return f"{one_of}{named}<p>With {change} the function agrees to {agreement:.0e}.{_unseen(unseen)}</p>"


def _unseen(names: Sequence[str]) -> str:
    return f" The gradients of {escape(', '.join(names))} were not seen." if names else ""


def _mistake(mistake: dict[str, Any], known: bool) -> str:
    name = f"<b>{escape(mistake['name'])}</b>"
    if known:
        return f"<div class=mistake>{name}<span class=soft>see above</span></div>"
    pitfall = f"; docs/pitfalls.md, “{escape(mistake['pitfall'])}”" if mistake["pitfall"] else ""
    source = f"<span class=soft>({escape(mistake['source'])}{pitfall})</span>"
    formula = f"<br>The right formula: <code>{escape(mistake['formula'])}</code> {source}"
    return f"<div class=mistake>{name}{escape(mistake['explanation'])}{formula}</div>"


def _findings(findings: Sequence[Finding]) -> str:
    """Return a table of the comparisons that are off, the worst of each array first."""
    worst: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        key = (finding.kind, finding.array)
        if not finding.beyond and (key not in worst or finding.error > worst[key].error):
            worst[key] = finding
    rows = "".join(
        f"<tr><td>{escape(f.message)}</td><td>{escape(f.case.label)}</td><td class=number>{f.dtype}</td></tr>"
        for f in worst.values()
    )
    head = "<tr><th>found</th><th>case</th><th>type</th></tr>"
    return f"<details><summary>The worst cases</summary><div class=scroll><table>{head}{rows}</table></div></details>"


def _row(verdict: Verdict) -> str:
    color = {"pass": "pass", "off": "off", "not written": "soft"}[verdict.status]
    status = f'<span class="{color}">{"OFF" if verdict.status == "off" else verdict.status}</span>'
    cells = "".join(_error(verdict, kind) for kind in ("forward", "gradient"))
    name = f"{escape(verdict.subject)}<br><code class=soft>{escape(verdict.function)}</code>"
    return f"<tr><td>{name}</td><td>{status}</td>{cells}</tr>"


def _error(verdict: Verdict, kind: str) -> str:
    error = verdict.errors.get(kind)
    return "<td></td><td></td>" if error is None else error_cells(error, verdict.budgets[kind])


def error_cells(error: float, budget: float) -> str:
    """Return the cells of an error: the number, and a picture of it beside its budget."""
    over = not error <= budget
    text = f"{error:.0e}" if math.isfinite(error) else "not finite"
    x, at = (_place(value) for value in (error, budget))
    picture = (
        f'<svg viewBox="0 0 120 16" role="img" aria-label="{text} of {budget:.0e}">'
        f'<line class="axis" x1="4" x2="116" y1="8" y2="8"/>'
        f'<line class="budget" x1="{at:.1f}" x2="{at:.1f}" y1="2" y2="14"/>'
        f'<circle class="{"over" if over else "within"}" cx="{x:.1f}" cy="8" r="4"/></svg>'
    )
    return f'<td class="number{" off" if over else ""}">{text}</td><td>{picture}</td>'


def _place(value: float) -> float:
    """Return the place of an error on its line, which is logarithmic."""
    value = min(max(value, SMALLEST), 1.0) if math.isfinite(value) else 1.0
    return 4 + 112 * (1 - math.log(value) / math.log(SMALLEST))


def _notes(verdicts: Sequence[Verdict]) -> str:
    notes = [
        f"<li><code>{escape(verdict.function)}</code>: {escape(note)}</li>"
        for verdict in verdicts
        for note in verdict.notes
    ]
    return f"<h2>Notes</h2><ul>{''.join(notes)}</ul>" if notes else ""
