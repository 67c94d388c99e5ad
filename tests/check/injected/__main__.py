"""Print the table of all known mistakes and whether a diagnosis names them, in torch and in JAX, as Markdown.

python -m tests.check.injected > docs/check-mistakes.md
"""

import os
import sys
from itertools import groupby

os.environ["JAX_ENABLE_X64"] = "1"

from parity.check import diagnose
from parity.mistakes import MISTAKES
from tests.check.injected.arrays import FRAMEWORKS
from tests.check.injected.named import Outcome, outcomes, shows

diagnose.SECONDS = 10.0  # a busy machine must not change the table


def cell(outcome: Outcome | None) -> str:
    """Return what a diagnosis said in a few words."""
    if outcome is None:
        return ""
    if not outcome.connected:
        return "not connected"
    if outcome.exact:
        return "named"
    others = "; ".join(" and ".join(names) for names in outcome.explanations)
    if outcome.listed:
        return f"one of {len(outcome.explanations)}"
    return f"**{others}**" if others else "measured"


def share(found: list[Outcome]) -> str:
    """Return how many mistakes were named."""
    exact, listed = (sum(f) for f in zip(*((o.exact, o.listed) for o in found), strict=True))
    wrong = sum(bool(o.explanations) and not o.listed for o in found)
    return (
        f"{exact} of {len(found)} named exactly ({100 * exact / len(found):.1f}%), "
        f"{listed - exact} listed among at most three, {wrong} with another name only"
    )


HEAD = """# Mistakes that `lm check` knows

Each mistake was made on purpose in an implementation of another hand than the oracle's (`tests/check/injected`), in
torch and in JAX, and given to the diagnosis as an unknown function.

- "named": the diagnosis named this mistake alone, from outputs and gradients.
- "one of 2": it listed this mistake among two that fit.
- "measured": it named nothing and said what it measured.
- "not connected": it said that the output is not connected to an array, which is this mistake.

Made by `python -m tests.check.injected > docs/check-mistakes.md`.
"""


def main() -> None:
    """Print the table."""
    found = {framework: {o.mistake.name: o for o in outcomes(framework)} for framework in FRAMEWORKS}
    print(HEAD)
    for framework, by_name in found.items():
        print(f"- {framework}: {share(list(by_name.values()))}")
    seen = [m for m in MISTAKES if any(m.name in by_name for by_name in found.values())]
    for replaces, mistakes in groupby(sorted(seen, key=lambda m: m.replaces), lambda m: m.replaces):
        group = list(mistakes)
        print(f"\n## `{replaces}`\n\n{group[0].formula} ({group[0].source})\n")
        print("| mistake | seen in | shows in | torch | JAX |\n| --- | --- | --- | --- | --- |")
        for mistake in group:
            rows = [by_name.get(mistake.name) for by_name in found.values()]
            first = next(row for row in rows if row is not None)
            cells = [mistake.name, first.subject, shows(first), *map(cell, rows)]
            print(f"| {' | '.join(cells)} |")
    print(f"{len(seen)} mistakes", file=sys.stderr)


if __name__ == "__main__":
    main()
