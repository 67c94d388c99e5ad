"""Inject every known mistake into implementations of another hand, and see whether a diagnosis names it."""

import importlib
import pkgutil
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from parity import draws, oracle
from parity.case import Case, Given, Layer, Rng
from parity.check import diagnose
from parity.check.answer import Answer
from parity.check.diagnose import explain
from parity.check.subjects import Array, Call, Subject
from parity.check.table import SUBJECTS
from parity.check.variants import Asked, differ, distance, predict, reached
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
    _further(
        "transformer_lm with sinusoids",
        LAYERS["transformer_lm"]._replace(draw=partial(draws.transformer_lm, position="sinusoidal")),
        *((3, 5, 2, 2, 4, 10, 11), (2, 7, 1, 3, 4, 10, 13)),
    ),
    _further("relu", Layer((), _with_zeros, lambda g: oracle.relu(g.arrays["x"])), (5, 7), (2, 3, 4)),
)
"""Functions that layers contain and the course does not ask for."""
SECONDS = 10.0
"""Time for pairs of mistakes: a busy machine must not change the table."""


def implementations() -> dict[str, Implementation]:
    """Return the tables INJECTED of all modules of this folder as one."""
    found: dict[str, Implementation] = {}
    for module in pkgutil.iter_modules(injected.__path__):
        if module.name not in ("named", "__main__"):
            found |= getattr(importlib.import_module(f"{injected.__name__}.{module.name}"), "INJECTED", {})
    return found


class Outcome(NamedTuple):
    """What the diagnosis of one injected mistake said."""

    mistake: str
    subject: str
    explanations: tuple[tuple[str, ...], ...] = ()
    """Names of the mistakes of each explanation: one if the diagnosis is sure, none if nothing fits."""
    connected: bool = True
    """Whether the output is connected to all arrays. If not, that is what `lm check` says."""

    @property
    def exact(self) -> bool:
        """Whether this mistake alone is named."""
        return self.explanations == ((self.mistake,),) or not self.connected

    @property
    def listed(self) -> bool:
        """Whether this mistake is among those that are listed."""
        return (self.mistake,) in self.explanations or not self.connected


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
        own.sort(key=lambda s: not s.name.startswith(mistake.replaces))
        if own:
            # What overflows in a float32 gradient shows nowhere in float64.
            subject = next((s for s in own if shows(s, mistake)), own[0])
            found.append(diagnosed(framework, subject, known[subject.name], mistake))
    return found


def diagnosed(
    framework: Framework, subject: Subject, implementation: Implementation, mistake: Mistake
) -> Outcome:
    """Return the outcome of a diagnosis."""
    call = ask(framework, implementation, mistake.name)
    with np.errstate(all="ignore"):
        found = explain(subject, call)
    if found.mistakes or found.one_of or found.measured:
        explanations = (found.mistakes,) if found.mistakes else found.one_of
        names = tuple(tuple(m.name for m in together) for together in explanations)
        return Outcome(mistake.name, subject.name, names)
    given = subject.given(subject.cases[0])
    answers = [
        a(given, np.ones_like(subject.layer.oracle(given))) for a in (call, ask(framework, implementation))
    ]
    lost, lost_before = ([name for name, g in a.gradients.items() if g is None] for a in answers)
    return Outcome(mistake.name, subject.name, connected=len(lost) <= len(lost_before))


def shows(subject: Subject, mistake: Mistake) -> str:
    """Return whether the mistake shows in a subject's output, in a gradient only, or nowhere: an empty text."""
    givens = [subject.given(case, diagnose.FRESH) for case in (*subject.cases, *subject.beyond)]
    outputs = [predict(subject, (), given) for given in givens]
    for given, right in zip(givens, outputs, strict=True):
        # What overflows in float32 need not overflow in float64.
        single = given._replace(arrays={name: a.astype(np.float32) for name, a in given.arrays.items()})
        overflows = distance(*(predict(subject, made, single) for made in ((mistake,), ()))) == np.inf
        if overflows or distance(predict(subject, (mistake,), given), right) > 1e-13:
            return "output"
    right = outputs[0]
    if not subject.layer.differentiable or right is None:
        return ""
    cotangent = np.random.default_rng(0).standard_normal(right.shape)
    asked = Asked(givens[0], cotangent, Answer(right, dict(givens[0].arrays), "float64"), "float64")
    return "gradient" if differ(subject, (mistake,), (), asked) > 1 else ""


def chosen(words: Sequence[str]) -> list[Mistake]:
    """Return the mistakes with these names, or of these functions of the oracle; without words, all."""
    return [m for m in MISTAKES if not words or m.name in words or m.replaces in words]


def numeric(framework: Framework, words: Sequence[str]) -> dict[str, Outcome]:
    """Return what is said of each mistake in a function of arrays, and report the slow ones."""
    diagnose.SECONDS = SECONDS
    found: dict[str, Outcome] = {}
    for mistake in chosen(words):
        start = time.monotonic()
        found |= {outcome.mistake: outcome for outcome in outcomes(framework, [mistake])}
        said = "" if mistake.name not in found or found[mistake.name].exact else ", not named"
        if said or time.monotonic() - start > 5:
            print(f"{framework}, {mistake.name}: {time.monotonic() - start:.0f} s{said}", file=sys.stderr)
    return found
