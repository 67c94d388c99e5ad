"""Which of a file's functions are checked, and as what."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from parity.check.exact import Found
from parity.check.process import Function
from parity.check.subjects import Call, Subject
from tokenizer.errors import InputError


class Choice(NamedTuple):
    """A subject, with the calls that fit the file's function, the best first."""

    subject: Subject
    calls: tuple[Call, ...]

    @property
    def functions(self) -> tuple[str, ...]:
        """The name of the function."""
        return (self.calls[0].function,)


def choose(functions: Mapping[str, Function], subjects: Sequence[Subject]) -> list[Choice]:
    """Return what can be checked in a file.

    A file with one of the course's functions is an adapter file. Other functions that it imports are not checked, and
    neither is a function of our names if the course's name for the same thing is there.
    """
    is_adapter = any(call.of_course and call.function in functions for s in subjects for call in s.calls)
    in_2024 = (
        bool(functions.keys() & {"run_positionwise_feedforward", "run_gelu"}) and "run_rope" not in functions
    )
    year = 2024 if in_2024 else 2025
    best: dict[str, tuple[float, Subject]] = {}
    for subject in subjects:
        for call in subject.calls:
            if call.function not in functions:
                continue
            fit = _fit(call, subject, functions[call.function], year)
            if call.function not in best or fit > best[call.function][0]:
                best[call.function] = fit, subject
    chosen = []
    for subject in subjects:
        calls = [c for c in subject.calls if c.function in best and best[c.function][1] is subject]
        if any(c.of_course for c in calls):
            calls = [c for c in calls if c.of_course]
        calls = [c for c in calls if c.of_course or functions[c.function].is_own]
        calls.sort(key=lambda c: -_fit(c, subject, functions[c.function], year))
        if calls and (calls[0].of_course or not is_adapter or _is_beside_the_course(subject)):
            chosen.append(Choice(subject, tuple(calls)))
    return chosen


def select(choices: Sequence[Choice | Found], words: Iterable[str]) -> list[Choice | Found]:
    """Return the choices whose subject or function has one of these words in its name.

    Raises:
        InputError: a word selects nothing.
    """
    selected: list[Choice | Found] = []
    for word in words:
        found = [c for c in choices if word in (c.subject.name, *c.functions)]
        found = found or [c for c in choices if any(word in n for n in (c.subject.name, *c.functions))]
        if not found:
            names = ", ".join(choice.subject.name for choice in choices)
            raise InputError(f"layer {word}: the file has {names}; give one of these")
        selected += [choice for choice in found if choice not in selected]
    return selected


def _is_beside_the_course(subject: Subject) -> bool:
    return not any(call.of_course for call in subject.calls)


def _fit(call: Call, subject: Subject, function: Function, year: int) -> float:
    """Return how well a function's parameters fit a call."""
    arguments = call.arguments(subject.given(subject.cases[0]))
    parameters = function.parameters
    fit = 0.1 * (call.year == year)
    if parameters is None:
        return fit
    required = sum(not p.has_default for p in parameters if p.kind.startswith("POSITIONAL"))
    possible = len(parameters) if all(p.kind != "VAR_POSITIONAL" for p in parameters) else 100
    fit += 2 * (required <= len(arguments) <= possible)
    fit += 4 * len(arguments.keys() & set(function.names)) / len(arguments)
    annotations = {p.name: p.annotation.lower() for p in parameters if p.annotation}
    for name in arguments.keys() & annotations.keys():
        is_dict = any(word in annotations[name] for word in ("dict", "mapping"))
        fit += 1 if is_dict == isinstance(arguments[name], dict) else -1
    return fit
