"""Every known mistake of optimizers, schedules, batches, checkpoints and tokenizers is named in another hand's code."""

from functools import partial
from types import SimpleNamespace

import pytest

from parity.check.answer import Verdict
from parity.check.child import objects
from parity.check.exact import Exact, check
from parity.check.exact_data import DATA
from parity.check.exact_texts import TEXTS
from parity.check.process import Function
from parity.check.table import SUBJECTS
from parity.mistakes import MISTAKES, Mistake
from tests.check.injected.arrays import Framework
from tests.check.injected.ask import ask
from tests.check.injected.data import get_batch, load, save
from tests.check.injected.named import diagnosed
from tests.check.injected.optimizer import INJECTED
from tests.check.injected.tokenizer import Tokenizer, train

NUMERIC = {
    "adamw": ("adamw_update", "AdamW"),
    "sgd": ("SGD",),
    "clip_gradients": ("clip_gradients",),
    "lr_schedule": ("cosine_schedule",),
}
OF = {s.name: s for s in SUBJECTS}


@pytest.mark.parametrize("framework", ["torch", "jax"])
@pytest.mark.parametrize("name", NUMERIC)
def test_mistakes_of_a_step_are_named(name: str, framework: Framework) -> None:
    """JAX compiles each operation, so every fifth mistake is injected into its form."""
    mistakes = [m for m in MISTAKES if m.replaces in NUMERIC[name]]
    for mistake in mistakes if framework == "torch" else mistakes[::5]:
        outcome = diagnosed(framework, OF[name], INJECTED[name], mistake)
        assert outcome is not None, mistake.name
        assert outcome.exact, (mistake.name, outcome.explanations)


@pytest.mark.parametrize("name", NUMERIC)
def test_a_right_step_agrees(name: str) -> None:
    subject = OF[name]
    for case in subject.cases:
        given = subject.given(case)
        answer = ask("torch", INJECTED[name])(given, dtype="float64")
        assert answer.output is not None
        assert answer.output == pytest.approx(subject.layer.oracle(given), rel=1e-12)


def module(wrong: str) -> SimpleNamespace:
    """Return what a file of adapters would define, with one mistake."""
    return SimpleNamespace(
        run_train_bpe=lambda path, size, specials: train(path, size, specials, wrong),
        get_tokenizer=lambda vocab, merges, specials=None: Tokenizer(vocab, merges, specials, wrong),
        run_get_batch=partial(get_batch, wrong),
        run_save_checkpoint=partial(save, wrong),
        run_load_checkpoint=partial(load, wrong),
    )


def verdict(subject: Exact, wrong: str = "") -> Verdict:
    functions = vars(module(wrong))
    found = subject.find(dict.fromkeys(functions, Function(True, None)))
    assert found is not None
    return check(found, lambda handler, a: objects.HANDLERS[handler](module(wrong), **a))


def names(verdict: Verdict) -> list[str]:
    """Return the mistakes that a verdict names, in its diagnosis or in its notes."""
    if verdict.diagnosis:
        return [mistake["name"] for mistake in verdict.diagnosis.as_json()["mistakes"]]
    return [m.name for m in MISTAKES if any(note.startswith(f"{m.name}: ") for note in verdict.notes)]


@pytest.mark.parametrize("subject", [*TEXTS, *DATA], ids=lambda s: s.name)
def test_a_right_implementation_passes(subject: Exact) -> None:
    right = verdict(subject)
    assert right.status == "pass"
    assert right.notes == ()


HOMES: dict[str, list[Mistake]] = {}
for _mistake in MISTAKES:
    _home = next((s.name for s in (*TEXTS, *DATA) if _mistake.replaces in s.replaced), None)
    if _home:
        HOMES.setdefault("encode" if _mistake.replaces == "split_specials" else _home, []).append(_mistake)


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
