"""Say why a function is off: name the known mistakes that explain its answers, or measure how they differ.

Mistakes are named only if the outputs and all gradients that exist agree within the budget on fresh cases, which also
tell the mistakes from the right function. Everything that fits is told apart by cases drawn for that, or listed.
"""

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from lm.budgets import SPREAD, Dtype, as_dtype
from parity.case import MASKS, POSITIONS, SCALES, Case, Given
from parity.check.answer import Answer, Ask
from parity.check.diagnosis import Diagnosis
from parity.check.explore import measure
from parity.check.parts import stages
from parity.check.shrink import smallest_case
from parity.check.subjects import Call, Subject
from parity.check.variants import (
    Asked,
    Mistakes,
    budget,
    differ,
    distance,
    fits,
    forward_error,
    gradient_error,
    output_of,
    reached,
    rounded,
)
from parity.mistakes import MISTAKES, Mistake
from tokenizer.errors import InputError

FRESH = 1
"""Seed of the cases of a diagnosis, which no finding has seen."""
MOST = 3
"""Most mistakes that explain one function, and most explanations that are listed."""
SECONDS = 1.0
"""Time after which no further pairs of mistakes are tried. A whole model has three times as much."""
FURTHER = 150
"""Most cases that are drawn to tell explanations apart."""
BETTER = 10.0
"""By how much an explanation agrees better than the right function."""
APART = 10.0
"""Least difference, in budgets, at which two explanations count as told apart."""
HELD = 12
"""Most explanations that are followed at once."""


def diagnose(
    subject: Subject,
    ask: Ask,
    dtype: Dtype = "float32",
    known: Sequence[Mistake] = (),
    catalogue: Sequence[Mistake] = MISTAKES,
    call: Call | None = None,
) -> Diagnosis:
    """Diagnose a function that is off.

    Args:
        dtype: Precision in which it is off.
        known: Mistakes that were found in other functions of the file, which this one may call.
        call: How the file defines the function. By default: the first way.
    """
    with np.errstate(all="ignore"):  # a wrong function may return numbers of any size
        found = explain(subject, ask, dtype, known, catalogue)
        return replace(found, smallest=smallest_case(subject, ask, dtype, call, found.mistakes))


def explain(
    subject: Subject,
    ask: Ask,
    dtype: Dtype = "float32",
    known: Sequence[Mistake] = (),
    catalogue: Sequence[Mistake] = MISTAKES,
) -> Diagnosis:
    """Return the diagnosis without the smallest case."""
    end = time.monotonic() + SECONDS * (3 if subject.layer.whole_model else 1)
    search = Search(subject, ask, dtype, tuple(known), catalogue, end)
    found = search.run()
    if dtype == "float32" and not found.mistakes:
        # float64 tells mistakes apart whose difference is below float32's rounding.
        sharper = Search(subject, ask, "float64", tuple(known), catalogue, end)
        if sharper.off:
            found = max(found, sharper.run(), key=_certainty)
    if found.mistakes or found.one_of:
        return found
    return replace(found, measured=tuple(measure(subject, ask, search.asked, dtype)))


def _certainty(diagnosis: Diagnosis) -> int:
    """Return a higher number for fewer explanations, and the lowest for none."""
    return 2 * MOST if diagnosis.mistakes else MOST - len(diagnosis.one_of) if diagnosis.one_of else -1


class Search:
    """The search for the mistakes of one function."""

    def __init__(
        self,
        subject: Subject,
        ask: Ask,
        dtype: Dtype,
        known: Mistakes,
        catalogue: Sequence[Mistake],
        end: float,
    ) -> None:
        self.subject, self.ask, self.dtype, self.end = subject, ask, dtype, end
        self.asked = self._ask_all(subject.cases) or self._ask_all(subject.beyond)
        self.off = [asked for asked in self.asked if not self._right(asked)]
        if not self.off and subject.beyond:
            self.asked = self._ask_all(subject.beyond)
            self.off = [asked for asked in self.asked if not self._right(asked)]
        called: set[str] = set()
        names = list(dict.fromkeys(mistake.replaces for mistake in catalogue))
        for asked in self.off[:1]:
            called = reached(subject, asked.given, names)
        self.candidates = [mistake for mistake in catalogue if mistake.replaces in called]
        self.known = tuple(mistake for mistake in known if mistake in self.candidates)

    def run(self) -> Diagnosis:
        """Return the diagnosis, without the smallest case and what is measured."""
        explanations = self._explanations() if self.off else []
        if not explanations or len(explanations) > MOST:
            return Diagnosis(subject=self.subject.name)
        errors = [error for asked in self.asked for error, _ in self._errors(explanations[0], asked)]
        first = explanations[0] if len(explanations) == 1 else ()
        return Diagnosis(
            mistakes=first,
            known=tuple(mistake.name for mistake in first if mistake in self.known),
            one_of=tuple(explanations) if len(explanations) > 1 else (),
            agreement=max(errors, default=0.0),
            unseen=tuple(self._unseen()),
            subject=self.subject.name,
            dtype=self.dtype,
        )

    def _ask_all(self, cases: Iterable[Case]) -> list[Asked]:
        asked = []
        for case in cases:
            # Gradients of huge scores cancel to less than float64's rounding.
            narrow = self.dtype != "float64" or case.spread <= SPREAD
            asked.append(self._ask(self.subject.given(case, FRESH), gradients=narrow))
        return [a for a in asked if a is not None]

    def _ask(self, given: Given, gradients: bool = True) -> Asked | None:
        """Return the function's answer; none if it gives no array."""
        given = rounded(given, self.dtype)
        right = np.asarray(self.subject.layer.oracle(given))
        cotangent = as_dtype(np.random.default_rng(0).standard_normal(right.shape), self.dtype)
        wanted = cotangent if gradients and self.subject.layer.differentiable else None
        answer = self.ask(given, wanted, dtype=self.dtype)
        if answer.output is None or (self.dtype == "float64" and answer.dtype != "float64"):
            return None
        return Asked(given, cotangent, answer, self.dtype)

    def _right(self, asked: Asked) -> bool:
        return fits(self.subject, (), asked) and fits(self.subject, (), asked, gradients=True)

    def _errors(self, mistakes: Mistakes, asked: Asked) -> Iterator[tuple[float, float]]:
        """Yield the errors of the output and the gradients if the oracle makes these mistakes, with their budgets."""
        yield forward_error(self.subject, mistakes, asked), budget(self.subject, asked.dtype, gradient=False)
        if asked.answer.output is None or not np.isfinite(asked.answer.output).all():
            return
        for name in asked.gradients:
            bound = budget(self.subject, asked.dtype, gradient=True)
            yield gradient_error(self.subject, mistakes, asked, name), bound

    def _worst(self, mistakes: Mistakes) -> float:
        """Return the largest error, in budgets."""
        return max(error / bound for asked in self.off for error, bound in self._errors(mistakes, asked))

    def _unseen(self) -> list[str]:
        """Return the arrays whose gradients no case has."""
        if not self.subject.layer.differentiable:
            return []
        names = dict.fromkeys(name for asked in self.asked for name in asked.given.arrays)
        return [name for name in names if not any(name in asked.gradients for asked in self.asked)]

    def _explanations(self) -> list[Mistakes]:
        """Return all that fits, the fewest mistakes first, after it was told apart."""
        found = self._confirmed((mistake,) for mistake in self.known)
        if not found:
            found = self._confirmed((mistake,) for mistake in self.candidates)
        if not found:
            found = self._confirmed(self._part_by_part())
        fewest = min(map(len, found), default=0)
        apart = self._tell_apart([mistakes for mistakes in found if len(mistakes) == fewest])
        return [mistakes for mistakes in apart if self._holds(mistakes)]

    def _holds(self, mistakes: Mistakes) -> bool:
        """Whether an explanation also fits cases of other scales."""
        case = self.subject.cases[0]
        given = (self.subject.given(replace(case, scale=scale), FRESH + 2) for scale in SCALES)
        asked = (self._ask(g) for g in given)
        return all(a is None or fits(self.subject, mistakes, a) for a in asked)

    def _confirmed(self, explanations: Iterable[Mistakes]) -> list[Mistakes]:
        """Return the explanations that fit all cases, ten times better than the right function does."""
        in_order = self.off + [asked for asked in self.asked if asked not in self.off]
        found = [m for m in explanations if all(fits(self.subject, m, asked) for asked in in_order)]
        found = [m for m in found if all(fits(self.subject, m, a, gradients=True) for a in in_order)]
        return [m for m in found if self._worst(m) * BETTER <= self._worst(())]

    def _part_by_part(self) -> Iterator[Mistakes]:
        """Yield combinations of mistakes, found by switching on the function's parts one after the other."""
        held: list[Mistakes] = [()]
        for stage in stages(self.off[0].given):
            asked = self._ask(stage.given)
            if asked is None:
                continue
            held = [m for m in held if fits(self.subject, m, asked)] or self._extended(held, asked)
            if not held:
                return
            held = held[:HELD]
        yield from held

    def _extended(self, held: Sequence[Mistakes], asked: Asked) -> list[Mistakes]:
        """Return what fits after one more mistake, or two, in other functions: those that are known come first."""
        for more in (1, 2):
            for pool in (self.known, self.candidates):
                if more == 2:
                    pool = self._visible(pool, asked)
                found: dict[frozenset[str], Mistakes] = {}
                for mistakes, added in itertools.product(held, itertools.combinations(pool, more)):
                    if more == 2 and time.monotonic() > self.end:
                        return list(found.values())
                    together = mistakes + added
                    functions = {mistake.replaces for mistake in together}
                    if len(together) > MOST or len(functions) < len(together):
                        continue
                    if fits(self.subject, together, asked):
                        found.setdefault(frozenset(m.name for m in together), together)
                if found:
                    return list(found.values())
        return []

    def _visible(self, pool: Sequence[Mistake], asked: Asked) -> Mistakes:
        """Return the mistakes that change the output of a case."""
        right = output_of(self.subject, (), asked)
        return tuple(m for m in pool if distance(output_of(self.subject, (m,), asked), right) > 1e-9)

    def _tell_apart(self, explanations: list[Mistakes]) -> list[Mistakes]:
        """Return the explanations that are left after cases that were drawn to tell them apart."""
        for case in itertools.islice(self._further_cases(), FURTHER):
            if len(explanations) < 2:
                break
            try:
                given = rounded(self.subject.given(case, FRESH + 1), self.dtype)
                right = np.asarray(self.subject.layer.oracle(given))
            except (ValueError, IndexError, InputError):
                continue  # sizes that do not go together
            silent = Asked(given, np.zeros(right.shape), Answer(right))
            pairs = itertools.combinations(explanations, 2)
            if not any(differ(self.subject, a, b, silent) > APART for a, b in pairs):
                continue
            asked = self._ask(given)
            if asked is not None:
                left = [m for m in explanations if fits(self.subject, m, asked)]
                left = [m for m in left if fits(self.subject, m, asked, gradients=True)]
                # If nothing is left, something that this case alone shows is wrong, too: no name is sure.
                explanations = left
        return explanations

    def _further_cases(self) -> Iterator[Case]:
        """Yield cases of other scales, masks, positions, seeds, and of sizes that are equal: the likely ones first."""
        for change in (
            {},
            {"scale": 0.1},
            {"scale": 3.0},
            {"scale": 0.001},
            *({"positions": p} for p in POSITIONS),
            *({"mask": m} for m in MASKS),
        ):
            for case in self.subject.cases:
                yield replace(case, seed=case.seed + 1, **change)  # type: ignore[arg-type]
        yield from self.subject.beyond
        for case in self.subject.cases:
            for i, j in itertools.combinations(range(len(case.shape)), 2):
                shape = (*case.shape[:i], case.shape[j], *case.shape[i + 1 :])
                yield replace(case, seed=case.seed + 1, shape=shape)
