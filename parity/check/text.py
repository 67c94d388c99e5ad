"""What `lm check` prints: one line for each function, then its findings and the diagnosis, indented."""

import textwrap

from parity.check.answer import Verdict

WIDTH = 110
INDENT = " " * 6


def lines(verdict: Verdict) -> list[str]:
    """Return the lines about one function."""
    # The tokenizer that this function makes has several functions.
    name = verdict.function + (f": {verdict.subject}" if verdict.function == "get_tokenizer" else "")
    head = f"{name:40} {_status(verdict):11}  {_measured(verdict)}"
    out = [head.rstrip()]
    for message in _told(verdict):
        out += _wrapped(message)
    if verdict.diagnosis and verdict.status == "off":
        out += [f"{INDENT}{line}" for line in verdict.diagnosis.lines()]
    for note in verdict.notes:
        out += _wrapped(f"note: {note}")
    return out


def summary(verdicts: list[Verdict]) -> str:
    """Return the last line."""
    off = sum(verdict.status == "off" for verdict in verdicts)
    missing = sum(verdict.status == "not written" for verdict in verdicts)
    written = f"; {missing} not written yet" if missing else ""
    return f"{off or 'none'} of {len(verdicts) - missing} functions off{written}"


def _status(verdict: Verdict) -> str:
    return {"off": "OFF", "pass": "pass", "not written": "not written"}[verdict.status]


def _measured(verdict: Verdict) -> str:
    """Return the worst errors; of a function that is off, with their budgets."""
    if verdict.status == "not written":
        return "it raises NotImplementedError"
    if verdict.diagnosis and verdict.status == "pass":
        return "as a variant that the course accepts"
    parts = []
    for kind, error in verdict.errors.items():
        over = not error <= verdict.budgets[kind]
        array = next((f.array for f in verdict.findings if f.error == error and f.kind == "gradient"), "")
        what = f"{kind} of {array}" if over and array else kind
        parts.append(f"{what} {error:.0e}" + (f" (budget {verdict.budgets[kind]:.0e})" if over else ""))
    return ", ".join(parts)


def _told(verdict: Verdict) -> list[str]:
    """Return what is wrong and is no number: the first of each kind, and how often there is more of it."""
    found = [f for f in verdict.findings if not f.beyond and f.kind not in ("forward", "gradient")]
    told = []
    for kind in dict.fromkeys(finding.kind for finding in found):
        first, *others = [finding for finding in found if finding.kind == kind]
        more = f" (and in {len(others)} more)" if others else ""
        told.append(first.message + more)
    return told


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)
