"""The exact subjects: texts, token ids, batches and checkpoints, whose answers are right or wrong to the last bit.

The child answers a subject's questions in JSON (`child.texts`, `child.data`). The oracle answers them, too, without and
with each known mistake. So a mistake is named if it alone gives all answers that the file gave.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from parity.case import Case
from parity.check.answer import Finding, Verdict
from parity.check.diagnosis import Diagnosis, explain
from parity.check.process import Function, Lost
from parity.check.subjects import is_of_course
from parity.check.variants import made
from parity.mistakes import MISTAKES, Mistake

Run = Callable[[str, Mapping[str, Any]], Any]
"""Call one of the child's handlers with arguments (`Child.run`)."""
MOST = 3
"""Most explanations that are listed."""
_RIGHT: dict[tuple[str, int], Any] = {}
"""The right answers to a subject's questions, computed once in a process."""


@dataclass(frozen=True)
class Question:
    """Something to ask a function."""

    what: str
    """What is special about it, for the user."""
    handler: str
    arguments: Mapping[str, Any]
    beyond: bool = False
    """Whether it is outside the course's contract: then a wrong answer is a note."""


@dataclass(frozen=True)
class Exact:
    """A subject whose answers are exact."""

    name: str
    functions: tuple[Mapping[str, str], ...]
    """Ways to define it: the functions that a file needs, by the handler's parameter."""
    questions: tuple[Question, ...]
    answer: Callable[[Question], Any]
    """The oracle's answer, in JSON."""
    replaced: frozenset[str]
    """The oracle's functions that it calls: their mistakes are candidates."""
    code: Callable[[Question, Mapping[str, str], Any, Any], str]
    """Return a question as code: from the question, the functions, the right answer and the file's answer."""
    is_method: bool = False
    """Whether the subject is a method of what the function returns."""
    measure: Callable[["Reply"], list[str]] | None = None
    """Return sentences about a wrong answer, if no mistake is named."""

    def find(self, functions: Mapping[str, Function]) -> "Found | None":
        """Return the functions of a file that define the subject. Those of our names must be the file's own."""
        for names in self.functions:
            present = [functions[name] for name in names.values() if name in functions]
            of_course = all(map(is_of_course, names.values()))
            if len(present) == len(names) and (of_course or all(function.is_own for function in present)):
                return Found(self, names)
        return None


class Found(NamedTuple):
    """A subject, and the functions of a file that define it."""

    subject: Exact
    names: Mapping[str, str]

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions' names."""
        return tuple(self.names.values())


@dataclass(frozen=True)
class Reply:
    """A question, the right answer, and the file's."""

    question: Question
    right: Any
    answer: Any

    @property
    def is_right(self) -> bool:
        """Whether the file's answer is the right one."""
        return same(self.answer, self.right)


def check(found: Found, run: Run, known: Sequence[Mistake] = ()) -> Verdict:
    """Return the verdict on the functions of a file that define the subject.

    Args:
        known: Mistakes that were found in other functions of the file, which this one may call.
    """
    started, replies, findings, notes = time.monotonic(), list[Reply](), list[Finding](), list[str]()
    subject, names = found
    function = ", ".join(found.functions) + (f"().{subject.name}" if subject.is_method else "")
    for i, question in enumerate(subject.questions):
        case = Case(subject.name, (), i)
        try:
            answer = run(question.handler, {**names, **question.arguments})
        except Lost as lost:
            if lost.failure.kind == "not written":
                return Verdict(subject.name, function, "not written")
            message = f"{question.what}: {lost.failure.message}"
            findings.append(Finding("failure", message, case, "float32", beyond=question.beyond))
            if lost.failure.kind != "raised":
                break
            continue
        if (subject.name, i) not in _RIGHT:
            _RIGHT[subject.name, i] = subject.answer(question)
        reply = Reply(question, _RIGHT[subject.name, i], answer)
        replies.append(reply)
        if not reply.is_right:
            message = f"{question.what}: {difference(reply.right, answer)}"
            if _raised(reply) and all(map(_raised, replies)):
                message = difference(reply.right, answer)
            findings.append(Finding("answer", message, case, "float32", beyond=question.beyond))
    off = [finding for finding in findings if not finding.beyond]
    says_something = any(not r.is_right for r in replies) and not all(map(_raised, replies))
    diagnosis = diagnose(subject, names, replies, known) if says_something else None
    if not off and diagnosis and diagnosis.mistakes:
        notes += [f"{m.name}: {explain(m)}" for m in diagnosis.mistakes]
    elif not off:
        notes += [finding.message for finding in findings]
    status = "off" if off and not (diagnosis and diagnosis.accepted) else "pass"
    return Verdict(
        subject.name,
        function,
        status,  # type: ignore[arg-type]
        findings=tuple(findings),
        notes=tuple(notes),
        diagnosis=diagnosis if off else None,
        seconds=time.monotonic() - started,
    )


def _raised(reply: Reply) -> bool:
    return isinstance(reply.answer, dict) and "raised" in reply.answer


def diagnose(
    subject: Exact, names: Mapping[str, str], replies: Sequence[Reply], known: Sequence[Mistake] = ()
) -> Diagnosis:
    """Name the mistakes that give all of the file's answers."""
    candidates = [m for m in MISTAKES if m.replaces in subject.replaced]
    # A wrong answer rules out most mistakes, so it is looked at first.
    in_order = sorted(replies, key=lambda reply: (reply.is_right, reply.question.beyond))
    contract = [reply for reply in in_order if not reply.question.beyond]
    fit = [m for m in candidates if all(same(reply.answer, _with(subject, m, reply)) for reply in contract)]
    all_fit = [m for m in fit if all(same(reply.answer, _with(subject, m, reply)) for reply in in_order)]
    fit = all_fit or (fit if any(not reply.is_right for reply in contract) else [])
    fit = [m for m in fit if m in known] or [m for m in fit if m.replaces == subject.name] or fit
    wrong = next(reply for reply in in_order if not reply.is_right)
    return Diagnosis(
        mistakes=tuple(fit) if len(fit) == 1 else (),
        known=tuple(m.name for m in fit if m in known),
        measured=() if fit or not subject.measure else tuple(subject.measure(wrong)),
        one_of=tuple((m,) for m in fit) if 1 < len(fit) <= MOST else (),
        agreement=0.0,
        smallest=subject.code(wrong.question, names, wrong.right, wrong.answer),
        subject=fit[0].replaces if len(fit) == 1 else subject.name,
    )


def _with(subject: Exact, mistake: Mistake, reply: Reply) -> Any:
    """Return the oracle's answer with a mistake."""
    with made([mistake]):
        return subject.answer(reply.question)


def same(a: Any, b: Any) -> bool:
    """Whether two answers are equal. Errors are equal, whatever their text is."""
    if isinstance(a, dict) and isinstance(b, dict):
        if "raised" in a or "raised" in b:
            return a.keys() == b.keys()
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def difference(right: Any, answer: Any) -> str:
    """Say in one line how an answer differs from the right one."""
    if isinstance(answer, dict) and isinstance(right, dict):
        if "raised" in answer:
            return f"it raises {answer['raised']}"
        if "type" in answer:
            return str(answer["type"])
        key = next(k for k in [*answer, *right] if not same(answer.get(k), right.get(k)))
        if isinstance(answer.get(key), list) and isinstance(right.get(key), list) and len(right[key]) > 8:
            return f"{key}: {_first(right[key], answer[key])}"
        return f"{key}: {_short(answer.get(key, 'missing'))}, not {_short(right.get(key, 'present'))}"
    if isinstance(answer, list) and isinstance(right, list):
        return _first(right, answer)
    return f"{_short(answer)}, not {_short(right)}"


def _first(right: list[Any], answer: list[Any]) -> str:
    """Say where two lists part."""
    i = next((i for i, (a, b) in enumerate(zip(answer, right, strict=False)) if not same(a, b)), None)
    if i is None:
        return f"its length is {len(answer)}, not {len(right)}"
    if isinstance(answer[i], dict) and "raised" in answer[i]:
        return f"it raises {answer[i]['raised']}"
    if isinstance(answer[i], list) and isinstance(right[i], list):
        return f"number {i + 1}: {_first(right[i], answer[i])}"
    return f"number {i + 1} is {_short(answer[i])}, not {_short(right[i])}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:76] + " ..."
