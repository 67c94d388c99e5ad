"""Notes say in words what a function does outside the course's contract, and do not look like failures."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lm.budgets import Dtype
from parity.case import Case, Given
from parity.check import exact_texts
from parity.check.answer import Answer, Finding, FindingKind, Verdict
from parity.check.choose import Choice
from parity.check.diagnose import explain
from parity.check.diagnosis import Diagnosis
from parity.check.exact import Found, check, difference
from parity.check.judge import compare_subject
from parity.check.notes import ABSENT, BATCHES, ROWS, in_words
from parity.check.table import SUBJECTS
from parity.check.text import lines
from parity.check.variants import made
from parity.mistakes import MISTAKES
from tests.check.injected.ask import ask
from tests.check.injected.model import INJECTED as MODELS


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
    assert verdict.findings[0].message == "it raises ModuleNotFoundError: No module named 'bpe'"


def test_a_named_habit_outside_the_contract_is_one_note() -> None:
    """Each text of an iterable is encoded by itself: two questions show it."""
    subject = next(s for s in exact_texts.TEXTS if s.name == "encode_iterable")
    mistake = next(m for m in MISTAKES if m.name == "encode_iterable: each text by itself")

    def run(handler: str, arguments: Any) -> Any:
        question = next(q for q in subject.questions if q.arguments.items() <= arguments.items())
        with made([mistake]):
            return subject.answer(question)

    verdict = check(Found(subject, subject.functions[0]), run)
    assert verdict.status == "pass"
    assert [note.partition(": Each")[0] for note in verdict.notes] == [mistake.name]


def test_a_list_in_a_list_is_compared_to_its_first_difference() -> None:
    assert difference([[1, 2], [3, 4]], [[1, 2], [3, 5]]) == "number 2: number 2 is 5, not 4"
    assert difference([1, 2], [1]) == "its length is 1, not 2"


def test_another_epsilon_is_accepted_in_a_block_and_not_in_the_norm_that_receives_it() -> None:
    mistake = next(m for m in MISTAKES if m.name == "RMSNorm: epsilon always 1e-06")
    assert Diagnosis((mistake,), subject="transformer_block").accepted
    assert not Diagnosis((mistake,), subject="rmsnorm").accepted


def test_two_mistakes_in_the_phases_of_a_schedule_are_both_named() -> None:
    """The warm-up counts from 1, and the cosine ends T_c steps after it."""

    def schedule(it: int, highest: float, lowest: float, warmup: int, cycle: int) -> float:
        if it < warmup:
            return highest * (it + 1) / warmup
        if it > warmup + cycle:
            return lowest
        return lowest + (highest - lowest) * (1 + math.cos(math.pi * (it - warmup) / cycle)) / 2

    def answer(given: Given, cotangent: Any = None, dtype: Dtype = "float32") -> Answer:
        s = given.statics
        rest = s["highest"], s["lowest"], s["warmup_steps"], s["cosine_steps"]
        return Answer(np.array([schedule(it, *rest) for it in s["steps"]]), dtype="float64")

    subject = next(s for s in SUBJECTS if s.name == "lr_schedule")
    found = {mistake.name for mistake in explain(subject, answer).mistakes}
    assert found == {
        "schedule: warm-up counts from 1",
        "schedule: T_c counts from the end of the warm-up",
    }


def test_small_hidden_states_show_the_epsilon_of_the_last_norm() -> None:
    subject = next(s for s in SUBJECTS if s.name == "transformer_lm")
    (small,) = subject.beyond
    answer = ask("torch", MODELS["transformer_lm"], "final norm: epsilon 1e-06")
    found = explain(replace(subject, cases=(small,), beyond=()), answer)
    assert [mistake.name for mistake in found.mistakes] == ["final norm: epsilon 1e-06"]
    assert found.accepted


def test_an_output_of_another_shape_is_not_called_unconnected() -> None:
    """A loss that is not averaged."""

    class Losses:
        def call(self, call: Any, given: Given, *_: Any) -> Answer:
            shape = given.constants["targets"].shape
            return Answer(np.zeros(shape), {"logits": None}, "float32", "torch")

    subject = next(s for s in SUBJECTS if s.name == "cross_entropy")
    verdict, _ = compare_subject(Losses(), Choice(subject, subject.calls[:1]), "float32")  # type: ignore[arg-type]
    assert "shape" in {finding.kind for finding in verdict.findings}
    assert not [note for note in verdict.notes if "not connected" in note]
