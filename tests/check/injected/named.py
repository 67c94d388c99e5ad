"""Inject every known mistake into implementations of another hand, and see whether a diagnosis names it."""

import importlib
import pkgutil
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from parity import draws, oracle
from parity.case import Case, Given, Layer, Rng
from parity.check.diagnose import explain
from parity.check.subjects import Array, Call, Subject
from parity.check.table import SUBJECTS
from parity.check.variants import distance, predict, reached
from parity.layers import LAYERS
from parity.mistakes import MISTAKES, Mistake
from tests.check import injected
from tests.check.injected.arrays import Framework
from tests.check.injected.ask import Implementation, ask


def _further(name: str, layer: Layer, *shapes: tuple[int, ...]) -> Subject:
    cases = tuple(Case(name, shape, seed) for seed, shape in enumerate(shapes))
    return Subject(name, (Call(name, lambda g: {a: Array(a) for a in g.arrays}),), layer, cases)


def _with_zeros(rng: Rng, case: Case) -> Given:
    """Draw numbers and some zeros, at which activations have kinks."""
    given = draws.silu(rng, case)
    return Given({"x": given.arrays["x"] * (rng.random(case.shape) < 0.7)})


FURTHER = (
    _further("linear with bias", LAYERS["linear with bias"], (2, 3, 7, 5), (1, 2, 5, 8), (3, 4, 4)),
    _further("feed_forward with biases", LAYERS["feed_forward"], *[(3, 4, 10), (5, 6, 7)] * 3),
    _further("relu", Layer((), _with_zeros, lambda g: oracle.relu(g.arrays["x"])), (5, 7), (2, 3, 4)),
)
"""Functions that layers contain and the course does not ask for."""


def implementations() -> dict[str, Implementation]:
    """Return the tables INJECTED of all modules of this folder as one."""
    found: dict[str, Implementation] = {}
    for module in pkgutil.iter_modules(injected.__path__):
        if module.name not in ("named", "__main__"):
            found |= getattr(importlib.import_module(f"{injected.__name__}.{module.name}"), "INJECTED", {})
    return found


class Outcome(NamedTuple):
    """What the diagnosis of one injected mistake said."""

    mistake: Mistake
    subject: str
    explanations: tuple[tuple[str, ...], ...] = ()
    """Names of the mistakes of each explanation: one if the diagnosis is sure, none if nothing fits."""
    connected: bool = True
    """Whether the output is connected to all arrays. If not, that is what `lm check` says."""

    @property
    def exact(self) -> bool:
        """Whether this mistake alone is named."""
        return self.explanations == ((self.mistake.name,),) or not self.connected

    @property
    def listed(self) -> bool:
        """Whether this mistake is among those that are listed."""
        return (self.mistake.name,) in self.explanations or not self.connected


def outcomes(framework: Framework, mistakes: Iterable[Mistake] = MISTAKES) -> list[Outcome]:
    """Diagnose each mistake in the first subject that shows it, its own function first.

    Mistakes that no implementation makes are left out.
    """
    known = implementations()
    subjects = [s for s in (*SUBJECTS, *FURTHER) if s.name in known]
    mistakes = list(mistakes)
    names = list(dict.fromkeys(mistake.replaces for mistake in mistakes))
    calls = {s.name: reached(s, s.given(s.cases[0]), names) for s in subjects}
    found = []
    for mistake in mistakes:
        own = [s for s in subjects if mistake.replaces in calls[s.name]]
        own.sort(key=lambda s: s.name != mistake.replaces)
        tried = (diagnosed(framework, s, known[s.name], mistake) for s in own)
        if (first := next((outcome for outcome in tried if outcome is not None), None)) is not None:
            found.append(first)
    return found


def diagnosed(
    framework: Framework, subject: Subject, implementation: Implementation, mistake: Mistake
) -> Outcome | None:
    """Return the outcome of a diagnosis; none if the implementation with the mistake is right."""
    call = ask(framework, implementation, mistake.name)
    with np.errstate(all="ignore"):
        found = explain(subject, call)
    if found.mistakes or found.one_of or found.measured:
        explanations = (found.mistakes,) if found.mistakes else found.one_of
        names = tuple(tuple(m.name for m in together) for together in explanations)
        return Outcome(mistake, subject.name, names)
    given = subject.given(subject.cases[0])
    answers = [
        a(given, np.ones_like(subject.layer.oracle(given))) for a in (call, ask(framework, implementation))
    ]
    lost, lost_before = ([name for name, g in a.gradients.items() if g is None] for a in answers)
    return Outcome(mistake, subject.name, connected=False) if len(lost) > len(lost_before) else None


def shows(outcome: Outcome) -> str:
    """Return whether the mistake shows in the output or in a gradient only."""
    subject = next(s for s in (*FURTHER, *SUBJECTS) if s.name == outcome.subject)
    for case in (*subject.cases, *subject.beyond):
        given = subject.given(case)
        if distance(predict(subject, (outcome.mistake,), given), predict(subject, (), given)) > 1e-13:
            return "output"
    return "gradient"
