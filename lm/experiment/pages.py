"""The pages in Markdown: pure functions of the experiments' results."""

from pathlib import Path
from typing import Any

from lm.experiment import answers
from lm.experiment.catalogue import EXPERIMENTS, Facts
from lm.experiment.outcomes import DIVERGED_ABOVE
from lm.files import published, write_json
from tokenizer.errors import InputError

WRITTEN = "<!-- written by lm experiment all: change lm/experiment/, not this -->"
BEGIN, END = "<!-- lm experiment all: begin -->", "<!-- lm experiment all: end -->"


def report(name: str, results: dict[str, Any]) -> str:
    """The report of one experiment, whose picture lies beside it."""
    others = EXPERIMENTS.keys() - {name}
    made = _made({key: value for key, value in results.items() if key not in others})
    return _page([f"# {EXPERIMENTS[name].title}", *_section(name, results[name], "curves.png"), *made])


def overview(results: dict[str, Any], picture: str) -> str:
    """All reports on one page.

    Args:
        picture: Path of an experiment's picture from the page, with {name} in it.
    """
    parts = [WRITTEN, "# Experiments", *_made(results)]
    for name in EXPERIMENTS:
        parts += [f"## {EXPERIMENTS[name].title}", *_section(name, results[name], picture.format(name=name))]
    return _page(parts)


def check_docs(docs: Path) -> None:
    """Refuse a folder whose pages cannot be written.

    Raises:
        InputError: a page is there that this program has not written, or lacks the marks.
    """
    page, answers_page = docs / "experiments.md", docs / "answers.md"
    if page.exists() and not page.read_bytes().decode().startswith(WRITTEN):
        raise InputError(f"{page}: was not written by lm experiment; move it elsewhere")
    if answers_page.exists():
        _around_the_answers(answers_page)


def _around_the_answers(page: Path) -> tuple[str, str]:
    """What is before and behind the two marks of a page, the marks included."""
    before, begin, rest = page.read_bytes().decode().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"{page}: lacks the lines {BEGIN} and {END}; put them where the answers are to go")
    return before + begin, end + after


def write_docs(docs: Path, results: dict[str, Any], pictures: dict[str, Path]) -> list[Path]:
    """Write experiments.md, its pictures and numbers (experiments/), and the answers between two marks of answers.md.

    Raises:
        InputError: see `check_docs`.
    """
    check_docs(docs)
    page, answers_page = docs / "experiments.md", docs / "answers.md"
    folder = docs / "experiments"
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in pictures.items():
        with published(folder / f"{name}.png") as temporary:
            temporary.write_bytes(source.read_bytes())
    write_json(folder / "results.json", results)
    with published(page) as temporary:
        temporary.write_text(overview(results, "experiments/{name}.png"), encoding="utf-8", newline="")
    if not answers_page.exists():
        return [page]
    with published(answers_page) as temporary:
        temporary.write_text(with_answers(answers_page, results), encoding="utf-8", newline="")
    return [page, answers_page]


def with_answers(page: Path, results: dict[str, Any]) -> str:
    """The page with the experiments' answers between its two marks.

    Raises:
        InputError: it lacks the marks.
    """
    before, after = _around_the_answers(page)
    return f"{before}\n\n{answers.answers(results)}\n\n{after}"


def _section(name: str, facts: Facts, picture: str) -> list[str]:
    experiment = EXPERIMENTS[name]
    return [
        experiment.about,
        *experiment.findings(facts),
        f"![{experiment.title}: see the table for the numbers]({picture})",
        *experiment.tables(facts),
    ]


def _made(results: dict[str, Any]) -> list[str]:
    """How the results came about."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    said = [
        f"Made by\n\n    {results['command']}\n\non {machine['cores']} cores of {machine['cpu']} ({versions}). "
        f"{results['settings']}"
    ]
    runs = _all_runs({name: facts for name, facts in results.items() if name in EXPERIMENTS})
    if runs:
        minutes = sum(seconds for _, seconds in runs) / 60
        said.append(
            f"There are {len(runs)} training runs, {minutes:.1f} minutes in all. Losses are in nats per token; those "
            "in tables are of the validation text, those in curves of training batches, smoothed. A run has "
            "**diverged** where a loss or gradient norm is not finite, or where its validation loss ends more than "
            f"{DIVERGED_ABOVE - 1:.0%} above ln V, that of guessing all tokens alike, near which every run begins. "
            "What the seed alone moves a loss by is the difference of the largest and the smallest loss of runs that "
            "differ in nothing else; a smaller difference shows nothing."
        )
    return said


def _all_runs(value: Any) -> set[tuple[str, float]]:
    """Name and seconds of each run, wherever in the facts it is."""
    if isinstance(value, dict):
        if "not_finite_at" in value:
            return {(value["name"], value["seconds"])}
        value = list(value.values())
    return set().union(*map(_all_runs, value)) if isinstance(value, list) else set()


def _page(parts: list[str]) -> str:
    return "\n\n".join(parts) + "\n"
