"""What `lm check --json` writes."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from parity.check.answer import Finding, Verdict


def as_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return all verdicts. A number that is not finite is a string, since JSON has none for it."""
    return [_verdict(verdict) for verdict in verdicts]


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "subject": verdict.subject,
        "function": verdict.function,
        "status": verdict.status,
        "dtype": verdict.dtype,
        "errors": {kind: _number(error) for kind, error in verdict.errors.items()},
        "budgets": dict(verdict.budgets),
        "findings": [_finding(finding) for finding in verdict.findings],
        "notes": list(verdict.notes),
        "diagnosis": verdict.diagnosis.as_json() if verdict.diagnosis else None,
        "seconds": round(verdict.seconds, 3),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {**asdict(finding), "error": _number(finding.error), "budget": _number(finding.budget)}


def _number(x: float) -> float | str | None:
    if math.isnan(x):
        return None
    return x if math.isfinite(x) else str(x)
