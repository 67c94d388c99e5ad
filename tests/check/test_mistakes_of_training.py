"""Every known mistake of optimizers, schedules, batches, checkpoints and tokenizers is named in another hand's code."""

from typing import Any

import pytest

from parity.check import exact
from parity.check.exact import Exact
from parity.check.exact_data import DATA
from parity.check.exact_texts import TEXTS
from parity.check.table import SUBJECTS
from parity.mistakes import MISTAKES, Mistake
from tests.check.injected.arrays import Framework
from tests.check.injected.ask import ask
from tests.check.injected.exact import homes, names, verdict
from tests.check.injected.named import diagnosed
from tests.check.injected.optimizer import INJECTED

NUMERIC = {
    "adamw": ("adamw_update", "AdamW"),
    "sgd": ("SGD",),
    "clip_gradients": ("clip_gradients",),
    "lr_schedule": ("warm_up", "cosine_schedule"),
}
OF = {s.name: s for s in SUBJECTS}


@pytest.mark.parametrize("framework", ["torch", "jax"])
@pytest.mark.parametrize("name", NUMERIC)
def test_mistakes_of_a_step_are_named(name: str, framework: Framework) -> None:
    """JAX compiles each mistake, so every fifth mistake is injected into its form."""
    mistakes = [m for m in MISTAKES if m.replaces in NUMERIC[name]]
    for mistake in mistakes if framework == "torch" else mistakes[::5]:
        outcome = diagnosed(framework, OF[name], INJECTED[name], mistake)
        assert outcome.exact, (mistake.name, outcome.explanations)


@pytest.mark.parametrize("name", NUMERIC)
def test_a_right_step_agrees(name: str) -> None:
    subject = OF[name]
    for case in subject.cases:
        given = subject.given(case)
        answer = ask("torch", INJECTED[name])(given, dtype="float64")
        assert answer.output is not None
        assert answer.output == pytest.approx(subject.layer.oracle(given), rel=1e-12)


@pytest.mark.parametrize("subject", [*TEXTS, *DATA], ids=lambda s: s.name)
def test_a_right_implementation_passes(subject: Exact) -> None:
    right = verdict(subject)
    assert right.status == "pass"
    assert right.notes == ()


HOMES = homes()


@pytest.fixture
def answers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the oracle with a mistake each question once, not once for every mistake that is looked for."""
    answer, known = exact._with, dict[tuple[str, str, int], Any]()

    def answer_once(subject: Exact, mistake: Mistake, reply: exact.Reply) -> Any:
        key = subject.name, mistake.name, subject.questions.index(reply.question)
        if key not in known:
            known[key] = answer(subject, mistake, reply)
        return known[key]

    monkeypatch.setattr(exact, "_with", answer_once)


@pytest.mark.usefixtures("answers_once")
@pytest.mark.parametrize("subject", [*TEXTS, *DATA], ids=lambda s: s.name)
def test_exact_mistakes_are_named(subject: Exact) -> None:
    assert len(HOMES[subject.name]) >= 6
    for mistake in HOMES[subject.name]:
        wrong = verdict(subject, mistake.name)
        assert names(wrong) == [mistake.name], mistake.name


def test_two_mistakes_are_off_without_a_wrong_name() -> None:
    """Ties that go the other way, and special tokens that are counted."""
    one, other = "BPE: the smaller pair wins ties", "special tokens: taken as text"

    class Both(str):
        def removeprefix(self, prefix: str) -> str:
            return (other if prefix.startswith("special") else one).removeprefix(prefix)

    wrong = verdict(TEXTS[0], Both(one))
    assert wrong.status == "off"
    assert names(wrong) == []
    assert wrong.diagnosis is not None
    assert any("of count" in line for line in wrong.diagnosis.lines()), wrong.diagnosis.lines()
