"""The outcome of a diagnosis: mistakes that are named, or what was measured, and the smallest failing case."""

import textwrap
from dataclasses import dataclass
from typing import Any

from parity.mistakes import Mistake

WIDTH = 104
"""Width of the text, which is indented by six."""


@dataclass(frozen=True)
class Diagnosis:
    """Why a function is off."""

    mistakes: tuple[Mistake, ...] = ()
    """Together they explain the function's answers."""
    known: tuple[str, ...] = ()
    """Names of those that were found in a part of the file before."""
    one_of: tuple[tuple[Mistake, ...], ...] = ()
    """Explanations that no case tells apart, if `mistakes` is empty."""
    agreement: float = float("nan")
    """Error of the answers if the oracle makes the mistakes, too."""
    unseen: tuple[str, ...] = ()
    """Arrays whose gradients could not be had."""
    measured: tuple[str, ...] = ()
    """Sentences about the difference, if no mistake is named."""
    smallest: str = ""
    """The smallest failing case, as NumPy code."""
    subject: str = ""
    dtype: str = "float32"
    """Precision of the answers that were explained."""

    @property
    def accepted(self) -> bool:
        """Whether the course accepts what the function does."""
        return bool(self.mistakes) and all(
            mistake.accepted or (mistake.accepted_inside and mistake.replaces != self.subject)
            for mistake in self.mistakes
        )

    def lines(self) -> list[str]:
        """Return the text that is printed below the verdict: sentences, broken into lines, and code."""
        lines = [part for line in self._sentences() for part in textwrap.wrap(line, WIDTH)]
        if self.smallest:
            lines += ["smallest failing case:", *(f"    {line}" for line in self.smallest.splitlines())]
        return lines

    def _sentences(self) -> list[str]:
        lines = []
        for mistake in self.mistakes:
            told = "see above." if mistake.name in self.known else explain(mistake)
            lines.append(f"{mistake.name}: {told}")
        if self.mistakes:
            lines.append(self._agreement())
        if self.one_of:
            lines.append("one of these mistakes, which no case told apart:")
            lines += [f"- {_title(mistakes)}" for mistakes in self.one_of]
            lines.append(self._agreement())
        if not self.mistakes and not self.one_of:
            lines.append(
                "no known mistake fits" + (":" if self.measured else ", and nothing simple was measured.")
            )
        return lines + [f"- {sentence}" for sentence in self.measured]

    def _agreement(self) -> str:
        many = len(self.mistakes) > 1
        sharper = " in float64" if self.dtype == "float64" else ""
        change = "any of these changes" if self.one_of else "these changes" if many else "that change"
        how = f"to {self.agreement:.0e}{sharper}" if self.agreement else "exactly"
        return f"With {change} your function agrees {how}.{self._unseen()}"

    def _unseen(self) -> str:
        if not self.unseen:
            return ""
        names = (
            f" of {' and '.join(self.unseen)}" if len(self.unseen) < 3 else f" of {len(self.unseen)} arrays"
        )
        return f" The gradients{names} were not seen."

    def as_json(self) -> dict[str, Any]:
        """Return the diagnosis for --json."""
        return {
            "mistakes": [as_json(mistake) for mistake in self.mistakes],
            "found_above": list(self.known),
            "one_of": [[as_json(mistake) for mistake in mistakes] for mistakes in self.one_of],
            "agreement": self.agreement if self.mistakes or self.one_of else None,
            "gradients_not_seen": list(self.unseen),
            "measured": list(self.measured),
            "smallest_failing_case": self.smallest,
        }


def explain(mistake: Mistake) -> str:
    """Return what the mistake does and what is right, in three sentences."""
    place = f'; docs/pitfalls.md, "{mistake.pitfall}"' if mistake.pitfall else ""
    return f"{mistake.explanation} The right formula: {mistake.formula} ({mistake.source}{place})."


def as_json(mistake: Mistake) -> dict[str, Any]:
    """Return a mistake for --json."""
    names = ("name", "replaces", "explanation", "formula", "source", "pitfall", "accepted")
    return {name: getattr(mistake, name) for name in names}


def _title(mistakes: tuple[Mistake, ...]) -> str:
    names = " and ".join(mistake.name for mistake in mistakes)
    return f"{names}: {explain(mistakes[0])}" if len(mistakes) == 1 else names
