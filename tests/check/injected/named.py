"""Inject every known mistake into implementations of another hand, and see whether a diagnosis names it."""

import importlib
import pkgutil
from collections.abc import Iterable
from typing import NamedTuple

from parity import draws, oracle
from parity.case import Case, Given, Layer, Rng
from parity.check.diagnose import diagnose
from parity.check.subjects import Array, Call, Subject
from parity.check.table import SUBJECTS
from parity.check.variants import reached
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
"""Functions that the course does not ask for, but layers contain."""


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
    framework: Framework
    explanations: tuple[tuple[str, ...], ...]
    """Names of the mistakes of each explanation: one if the diagnosis is sure, none if nothing fits."""

    @property
    def exact(self) -> bool:
        return self.explanations == ((self.mistake.name,),)

    @property
    def listed(self) -> bool:
        return (self.mistake.name,) in self.explanations

    @property
    def wrong(self) -> bool:
        """Whether another mistake was named for sure."""
        return len(self.explanations) == 1 and not self.exact


def outcomes(framework: Framework, mistakes: Iterable[Mistake] = MISTAKES) -> list[Outcome]:
    """Diagnose each mistake in the first subject that shows it. Those that no implementation makes are left out."""
    known = implementations()
    subjects = [s for s in (*FURTHER, *SUBJECTS) if s.name in known]
    names = list(dict.fromkeys(mistake.replaces for mistake in mistakes))
    calls = {s.name: reached(s, s.given(s.cases[0]), names) for s in subjects}
    found = []
    for mistake in mistakes:
        for subject in subjects:
            if mistake.replaces in calls[subject.name]:
                outcome = diagnosed(framework, subject, known[subject.name], mistake)
                if outcome is not None:
                    found.append(outcome)
                    break
    return found


def diagnosed(
    framework: Framework, subject: Subject, implementation: Implementation, mistake: Mistake
) -> Outcome | None:
    """Return the outcome of a diagnosis; none if the implementation with the mistake is right."""
    found = diagnose(subject, ask(framework, implementation, mistake.name))
    if not (found.mistakes or found.one_of or found.measured or found.smallest):
        return None
    explanations = (found.mistakes,) if found.mistakes else found.one_of
    names = tuple(tuple(m.name for m in together) for together in explanations)
    return Outcome(mistake, subject.name, framework, names)
