"""Notes say in words what a function does outside the course's contract, and do not look like failures."""

from typing import Any

import pytest

from lm.budgets import Dtype
from parity.case import Case
from parity.check import exact_texts
from parity.check.answer import Finding, FindingKind, Verdict
from parity.check.diagnosis import Diagnosis
from parity.check.exact import Found, check
from parity.check.notes import ABSENT, BATCHES, ROWS, in_words
from parity.check.text import lines
from parity.mistakes import MISTAKES


def beyond(
    message: str, kind: FindingKind = "failure", error: float = 0.0, dtype: Dtype = "float32"
) -> Finding:
    return Finding(kind, message, Case("softmax", (2, 3), 0), dtype, error=error, beyond=True)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (BATCHES, "it takes one batch axis only"),
        (ROWS, "it takes one row of positions for all sequences"),
        (ABSENT, "it needs token_positions"),
        ("huge logits", "huge logits"),
    ],
)
def test_a_note_about_a_failed_call_says_what_is_not_taken_and_where(place: str, words: str) -> None:
    failed = beyond(
        "ValueError: too many values to unpack (expected 3) (basics/model.py:28), for x (2, 3, 5, 8)"
    )
    assert in_words(place, [failed]) == f"{words}: ValueError (basics/model.py:28)"


def test_a_note_has_the_worst_number_of_its_cases() -> None:
    found = [
        beyond(f"gradient of {n} {e:.0e}", "gradient", e, "float64") for n, e in (("x", 1e-3), ("y", 2e-1))
    ]
    assert in_words("float64", found) == "float64: gradient of y 2e-01"


def test_what_the_course_accepts_is_a_note_without_a_failing_case() -> None:
    mistake = next(m for m in MISTAKES if m.accepted and m.replaces == "adamw_update")
    diagnosis = Diagnosis((mistake,), smallest="expected = 1")
    verdict = Verdict(
        "adamw", "get_adamw_cls", "pass", {"forward": 4e-2}, {"forward": 1e-6}, diagnosis=diagnosis
    )
    text = "\n".join(lines(verdict))
    assert "variant that the course accepts" in text
    assert "budget" not in text
    assert "smallest" not in text


def test_a_function_that_always_raises_gets_no_diagnosis() -> None:
    subject = next(s for s in exact_texts.TEXTS if s.name == "train_bpe")

    def run(handler: str, arguments: Any) -> Any:
        return {"raised": "ModuleNotFoundError: No module named 'bpe'"}

    verdict = check(Found(subject, subject.functions[0]), run)
    assert verdict.status == "off"
    assert verdict.diagnosis is None
    assert "No module named 'bpe'" in "\n".join(lines(verdict))
