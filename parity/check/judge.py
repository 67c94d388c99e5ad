"""The verdict on a function: its cases, the other precisions, and what is outside the course's contract."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lm.budgets import BUDGETS, Dtype, relative_error
from parity.case import Case, Given
from parity.check.answer import Answer, Finding, Verdict
from parity.check.choose import Choice
from parity.check.compare import Comparison
from parity.check.notes import in_words, place
from parity.check.precision import ROUGH, roughness
from parity.check.process import Child

ROUNDING = 8.0
"""A function whose float64 is right may be over a lower precision's budget by this factor: its formula is right."""
SHOWN = 3
"""Number of weights that a note lists."""
ENOUGH = 2
"""Number of failed calls after which a subject's other cases are left out."""


def compare_subject(child: Child, choice: Choice, dtype: Dtype) -> tuple[Verdict, Comparison]:
    """Return the verdict on a function, without a diagnosis, and what can ask the function further cases."""
    comparison = _begin(child, choice, dtype)
    first, *others = comparison.subject.cases
    answer, findings = comparison.compare(first, comparison.dtype)
    if answer.failure and answer.failure.kind == "raised" and comparison.dtype != "float32":
        comparison.notes.append(f"float32 only: {answer.failure.message}")
        comparison.dtype = "float32"
        answer, findings = comparison.compare(first, "float32")
    if answer.failure and answer.failure.kind == "not written":
        return _verdict(comparison, "not written"), comparison
    comparison.findings += findings
    # An output of another shape has no gradient, connected or not.
    has_shape = not any(finding.kind == "shape" for finding in findings)
    comparison.notes += _remarks(answer, comparison.dtype, choice.subject.layer.differentiable, has_shape)
    failures = 1 if answer.failure else 0
    if not answer.failure and answer.framework != "jax":  # JAX compiles what is pure
        comparison.findings += _changes_between_calls(comparison, first, answer)
    for case in others:
        if failures >= ENOUGH or (answer.failure and answer.failure.kind != "raised"):
            break
        answer, findings = comparison.compare(case, comparison.dtype)
        comparison.findings += findings
        failures += answer.failure is not None
    if not failures:
        _look_beyond(comparison)
    _forgive_rounding(comparison)
    is_off = any(not finding.beyond for finding in comparison.findings)
    return _verdict(comparison, "off" if is_off else "pass"), comparison


def _begin(child: Child, choice: Choice, dtype: Dtype) -> Comparison:
    """Return a comparison by the first call that the function takes, with sizes that it takes."""
    subject = choice.subject
    comparisons = [Comparison(child, subject, call, dtype) for call in choice.calls]
    if dtype == "bfloat16":
        comparisons = [c for c in comparisons for c in (c, replace(c, mixed=True))]
    refused = ""
    if len(comparisons) > 1 or subject.round:
        for comparison in comparisons:
            failure = comparison.try_out(subject.cases[0])
            if not failure or failure.kind != "raised":
                return comparison
            refused = refused or failure.message
    # A function may refuse on purpose what its author does not need.
    if subject.round and refused.startswith(("AssertionError", "ValueError")):
        rounded = replace(subject, cases=subject.round, beyond=(), round=())
        note = f"judged with d_ff a multiple of 64, because it refuses another: {refused}"
        for comparison in comparisons:
            if not comparison.try_out(subject.round[0]):
                return replace(comparison, subject=rounded, notes=[note])
    return comparisons[0]


def _remarks(answer: Answer, dtype: Dtype, differentiable: bool, has_shape: bool) -> list[str]:
    """Return notes about a call that gave a result."""
    if answer.failure:
        return []
    remarks = [note for note in answer.notes if note != "copied"]
    unconnected = [name for name, gradient in answer.gradients.items() if gradient is None]
    if unconnected and has_shape:
        which = ", ".join(unconnected[:SHOWN])
        if len(unconnected) == len(answer.gradients):
            which = "every input"
        elif len(unconnected) > SHOWN:
            which += f" and {len(unconnected) - SHOWN} more"
        remarks.append(f"not connected, so without gradient: {which}")
    if answer.framework == "numpy" and differentiable:
        remarks.append("NumPy: no gradients")
    elif answer.framework != "numpy" and answer.dtype != dtype:
        remarks.append(f"it returns {answer.dtype} for {dtype}")
    return remarks


def _changes_between_calls(comparison: Comparison, case: Case, first: Answer) -> Iterator[Finding]:
    again = comparison.ask(comparison.problem(case, comparison.dtype).given, dtype=comparison.dtype)
    if again.output is None or first.output is None or again.output.shape != first.output.shape:
        return
    error = relative_error(again.output, first.output)
    if error > BUDGETS[comparison.dtype].forward:
        message = (
            f"two calls with equal inputs differ by {error:.0e}: it draws random numbers or keeps a state"
        )
        yield Finding("changes between calls", message, case, comparison.dtype, error=error)


def _look_beyond(comparison: Comparison) -> None:
    """Note what happens in the other precisions, and outside the course's contract."""
    dtypes: tuple[Dtype, ...] = ("float64", "bfloat16") if comparison.dtype == "float32" else ()
    is_off = any(not finding.beyond for finding in comparison.findings)
    refused = []
    for dtype in dtypes:
        answer, findings = comparison.compare(comparison.subject.cases[0], dtype, beyond=True)
        if answer.failure and dtype == "bfloat16":
            mixed = replace(comparison, mixed=True)
            answer, findings = mixed.compare(comparison.subject.cases[0], dtype, beyond=True)
        if answer.failure:
            refused.append(dtype)
        elif dtype == "float64" and findings and _within_float32(comparison, findings):
            comparison.notes.append("it computes in float32 if it is given float64")
        elif not is_off:
            comparison.findings += findings
    has_arrays = bool(comparison.subject.given(comparison.subject.cases[0]).arrays)
    if refused and has_arrays and not any(n.startswith(("float32 only", "NumPy")) for n in comparison.notes):
        comparison.notes.append("it refuses " + " and ".join(refused))
    for case in () if is_off else comparison.subject.beyond:
        found = comparison.compare(case, comparison.dtype, beyond=True)[1]
        comparison.findings += [] if _within_float32(comparison, found) else found


def _within_float32(comparison: Comparison, findings: list[Finding]) -> bool:
    """Whether the findings are errors in float64 that float32's budgets allow."""
    forward, gradient, *of_models = BUDGETS["float32"]
    if comparison.subject.layer.whole_model:
        forward, gradient = of_models
    return all(
        f.dtype == "float64" and f.kind in ("forward", "gradient") and f.error <= max(forward, gradient)
        for f in findings
    )


def _forgive_rounding(comparison: Comparison) -> None:
    """Make notes of errors that are roundings.

    In a lower precision these are small errors of a function that is right in float64; in float64, errors that are as
    small as float32's: many functions convert to float32 and back.
    """
    off = [f for f in comparison.findings if not f.beyond]
    if not off:
        return
    if _within_float32(comparison, off):
        comparison.findings = [f for f in comparison.findings if f.beyond]
        comparison.notes.append("it computes in float32 if it is given float64")
    small = all(f.kind in ("forward", "gradient") and f.error < ROUNDING * f.budget for f in off)
    in_float64 = [f for f in comparison.findings if f.dtype == "float64"]
    if small and comparison.dtype != "float64" and not in_float64 and _is_rounding(comparison, off):
        comparison.findings = [replace(f, beyond=True) for f in comparison.findings]
        comparison.notes.append("the formula is right, but it rounds more than the budget allows")


def _is_rounding(comparison: Comparison, findings: list[Finding]) -> bool:
    """Whether the worst error is smaller in float64, or moves in steps as roundings do."""
    worst = max(findings, key=lambda finding: finding.error / finding.budget)
    problem = comparison.problem(worst.case, "float64")

    def answer(given: Given) -> np.ndarray | None:
        found = comparison.ask(given, problem.cotangent, "float64")
        return found.output if worst.array == "output" else found.gradients.get(worst.array)

    right = problem.output if worst.array == "output" else problem.gradients[worst.array]
    actual = answer(problem.given)
    if actual is None or actual.shape != right.shape or relative_error(actual, right) < worst.error / 3:
        return True
    return roughness(answer, problem.given, worst.error) > ROUGH


def _verdict(comparison: Comparison, status: str) -> Verdict:
    outside: dict[str, list[Finding]] = {}
    for finding in comparison.findings:
        if finding.beyond:
            outside.setdefault(place(finding, comparison.subject), []).append(finding)
    beyond = [in_words(where, findings) for where, findings in outside.items()]
    return Verdict(
        subject=comparison.subject.name,
        function=comparison.call.function,
        status=status,  # type: ignore[arg-type]
        errors={kind: e if math.isfinite(e) else math.inf for kind, e in comparison.errors.items()},
        budgets=dict(comparison.budgets),
        dtype=comparison.dtype,
        findings=tuple(comparison.findings),
        notes=tuple(dict.fromkeys(comparison.notes + beyond)),
        seconds=comparison.seconds,
    )
