"""Print the table of all known mistakes and whether a diagnosis names them, as Markdown.

python -m tests.check.injected > docs/check-mistakes.md
python -m tests.check.injected rope "RMSNorm: no epsilon"    # of these functions or names
"""

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby
from multiprocessing import get_context

os.environ["JAX_ENABLE_X64"] = "1"

from parity.check.exact_data import DATA
from parity.check.exact_texts import TEXTS
from parity.check.table import SUBJECTS
from parity.mistakes import Mistake
from tests.check.injected.arrays import FRAMEWORKS
from tests.check.injected.exact import homes, names, verdict
from tests.check.injected.named import FURTHER, Outcome, chosen, numeric, shows


def exact(mistakes: Sequence[Mistake]) -> dict[str, Outcome]:
    """Return what is said of each mistake of batches, checkpoints and tokenizers, which have no gradients."""
    found = {}
    subjects = {subject.name: subject for subject in (*TEXTS, *DATA)}
    for home, here in homes().items():
        for mistake in here:
            if mistake in mistakes:
                said = tuple((name,) for name in names(verdict(subjects[home], mistake.name)))
                found[mistake.name] = Outcome(mistake.name, home, said)
    return found


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


def share(found: Sequence[Outcome]) -> str:
    """Return how many mistakes were named."""
    exact, listed = (sum(f) for f in zip(*((o.exact, o.listed) for o in found), strict=True))
    wrong = sum(bool(o.explanations) and not o.listed for o in found)
    return (
        f"{len(found)} mistakes, {exact} named exactly ({100 * exact / len(found):.1f}%), "
        f"{listed - exact} listed among at most three, {wrong} with another name only, "
        f"{len(found) - listed - wrong} without a name"
    )


HEAD = """# Mistakes that `lm check` knows

Each mistake was made on purpose in an implementation of another hand than the oracle's (`tests/check/injected`), and
given to the diagnosis as an unknown function: functions of arrays in torch and in JAX, in float32; batches, checkpoints
and tokenizers in Python.

- "named": the diagnosis named this mistake alone, from outputs and gradients.
- "one of 2": it listed this mistake among two that fit.
- "measured": it named nothing and said what it measured.
- "not connected": it said that the output is not connected to an array, which is this mistake.

`python -m tests.check.injected > docs/check-mistakes.md` makes this page.
"""


def table(mistakes: Sequence[Mistake], columns: dict[str, dict[str, Outcome]]) -> Iterator[str]:
    """Yield the lines of a table for each function of the oracle."""
    told = [m for m in mistakes if any(m.name in found for found in columns.values())]
    subjects = {subject.name: subject for subject in (*SUBJECTS, *FURTHER)}
    for replaces, group in groupby(sorted(told, key=lambda m: m.replaces), lambda m: m.replaces):
        first, *others = group
        yield f"\n## `{replaces}`\n\n{first.formula} ({first.source})\n"
        yield f"| mistake | seen in | shows in | {' | '.join(columns)} |"
        yield f"| --- | --- | --- |{' --- |' * len(columns)}"
        for mistake in (first, *others):
            rows = [found.get(mistake.name) for found in columns.values()]
            home = next(row.subject for row in rows if row is not None)
            shown = (shows(subjects[home], mistake) or "gradient") if home in subjects else "output"
            yield f"| {' | '.join([mistake.name, home, shown, *map(cell, rows)])} |"


def main(words: Sequence[str]) -> None:
    """Print the table of the mistakes that `chosen` returns."""
    mistakes = chosen(words)
    with ProcessPoolExecutor(len(FRAMEWORKS), get_context("spawn")) as pool:
        running = {framework: pool.submit(numeric, framework, words) for framework in FRAMEWORKS}
        columns: dict[str, dict[str, Outcome]] = {f: future.result() for f, future in running.items()}
    of_python = exact(mistakes)
    print(HEAD)
    for title, found in (columns | {"Python": of_python}).items():
        if found:
            print(f"- {title}: {share(list(found.values()))}")
    for line in (*table(mistakes, columns), *table(mistakes, {"Python": of_python})):
        print(line)


if __name__ == "__main__":
    main(sys.argv[1:])
