"""Check a file: find its functions, compare each, and name what is wrong."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from lm.budgets import Dtype
from parity.check import diagnose
from parity.check.answer import Finding, Verdict
from parity.check.choose import Choice, choose, select
from parity.check.compare import Comparison
from parity.check.diagnosis import Diagnosis, explain
from parity.check.exact import Found, check
from parity.check.exact_data import DATA
from parity.check.exact_texts import TEXTS
from parity.check.judge import compare_subject
from parity.check.process import DEFAULT_LIMITS, Child, Limits
from parity.check.table import SUBJECTS
from parity.mistakes import Mistake
from tokenizer.errors import InputError

EXACT = (*DATA, *TEXTS)
_NUMERIC = [call.function for subject in SUBJECTS for call in subject.calls]
_EXACT = [name for subject in EXACT for names in subject.functions for name in names.values()]
NAMES = tuple(dict.fromkeys(_NUMERIC + _EXACT))
"""All functions that can be checked."""


def run_check(
    target: str,
    layers: Sequence[str] = (),
    dtype: Dtype = "float32",
    python: str = sys.executable,
    limits: Limits = DEFAULT_LIMITS,
    show: Callable[[Verdict], None] = lambda verdict: None,
) -> list[Verdict]:
    """Return the verdicts on the functions of a file.

    Args:
        target: Python file, or name of a module.
        layers: Names, or parts of names, of the subjects or functions to check. Default: all.
        python: Interpreter that runs the file. Default: this one.
        show: Receives each verdict as soon as it is known.

    Raises:
        InputError: the file cannot be imported, or has nothing to check.
    """
    with Child(target, NAMES, python, limits) as child:
        choices: list[Choice | Found] = list(choose(child.functions, SUBJECTS))
        choices += [found for subject in EXACT if (found := subject.find(child.functions))]
        if not choices:
            raise InputError(
                f"{target} has no function that lm check knows: name them as the course's adapters do "
                "(run_softmax, run_rmsnorm ...) or as docs/check.md says (softmax, rmsnorm ...)"
            )
        verdicts: list[Verdict] = []
        known: list[Mistake] = []
        for choice in select(choices, layers) if layers else choices:
            if isinstance(choice, Found):
                verdict = check(choice, child.run, known)
            else:
                verdict = _checked(child, choice, dtype, known)
            if isinstance(verdict.diagnosis, Diagnosis):
                known += [mistake for mistake in verdict.diagnosis.mistakes if mistake not in known]
            verdicts.append(verdict)
            show(verdict)
    return verdicts


def _checked(child: Child, choice: Choice, dtype: Dtype, known: Sequence[Mistake]) -> Verdict:
    """Return the verdict on a numeric subject, with its diagnosis."""
    verdict, comparison = compare_subject(child, choice, dtype)
    if verdict.status == "pass":
        return _with_habits(verdict, comparison, known)
    if verdict.status != "off" or not any(_is_number(f) for f in verdict.findings):
        return verdict
    diagnosis = diagnose.diagnose(
        comparison.subject, comparison.ask, verdict.dtype, known, call=comparison.call
    )
    verdict = replace(verdict, diagnosis=diagnosis)
    if diagnosis.accepted:
        verdict = replace(verdict, status="pass", notes=(*verdict.notes, *_accepted(diagnosis)))
    return verdict


def _with_habits(verdict: Verdict, comparison: Comparison, known: Sequence[Mistake]) -> Verdict:
    """Name what only small inputs show of a function that passes, such as another epsilon."""
    small = [f for f in verdict.findings if f.beyond and f.kind == "forward" and f.case.scale < 1]
    if not small:
        return verdict
    subject = replace(comparison.subject, cases=(small[0].case,), beyond=())
    found = diagnose.explain(subject, comparison.ask, verdict.dtype, known)
    return replace(verdict, notes=(*verdict.notes, *_accepted(found))) if found.accepted else verdict


def _accepted(diagnosis: Diagnosis) -> list[str]:
    told = {m.name: "see above." if m.name in diagnosis.known else explain(m) for m in diagnosis.mistakes}
    return [f"the course accepts this: {name}: {text}" for name, text in told.items()]


def _is_number(finding: Finding) -> bool:
    """Whether the function gave numbers that can be explained."""
    return not finding.beyond and finding.kind in ("forward", "gradient", "nan", "changes between calls")
