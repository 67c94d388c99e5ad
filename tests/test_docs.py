"""Docs: commands and Python print what the pages show, and numbers in bold are computed."""

import doctest
import json
import re
import shlex

import pytest

from lm.experiment.catalogue import COURSE
from lm.experiment.report import report
from tests.lm.conftest import lm
from tests.source import ROOT

DOCS = ROOT / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("answers", "scaling")}
COMMANDS = [
    found
    for text in PAGES.values()
    for found in re.findall(r"^    \$ lm (.*)\n((?:    (?!\$).+\n)+)", text, re.MULTILINE)
]
Capture = pytest.CaptureFixture[str]


def words(line: str) -> str:
    """A line without the widths of its columns, which the lines left out may have set."""
    return " ".join(line.split())


@pytest.mark.parametrize(("command", "shown"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_commands_print_what_is_shown(command: str, shown: str, capsys: Capture) -> None:
    assert lm(*shlex.split(command)) == 0
    printed = iter([words(line) for line in capsys.readouterr().out.split("\n")])
    for line in shown.splitlines():
        # Lines come in the order shown, because the iterator continues after each.
        assert words(line) == "..." or words(line) in printed, line


@pytest.mark.parametrize("page", PAGES)
def test_python_prints_what_is_shown(page: str) -> None:
    example = doctest.DocTestParser().get_doctest(PAGES[page], {}, page, None, None)
    result = doctest.DocTestRunner().run(example)
    assert result.attempted >= 13
    assert result.failed == 0


def split(page: str, heading: str) -> dict[str, str]:
    """Title -> text of the sections of a page."""
    titles_and_texts = re.split(rf"^{heading} (.*)\n", page, flags=re.MULTILINE)[1:]
    return dict(zip(titles_and_texts[::2], titles_and_texts[1::2], strict=True))


def check_bold_numbers(section: str, printed: str) -> int:
    """Check that what was printed contains each number in bold, and count the numbers."""
    numbers = re.findall(r"\*\*([\d.,e+%-]+)\*\*", section)
    for number in numbers:
        assert re.search(rf"(?<![\d.,]){re.escape(number)}(?![\d,%]|\.\d)", printed), number
    return len(numbers)


@pytest.mark.parametrize("page", PAGES)
def test_numbers_in_bold_are_printed_in_their_section(page: str) -> None:
    count = 0
    for section in split(PAGES[page], "###?").values():
        count += check_bold_numbers(section, " ".join(re.findall(r"^    .*$", section, re.MULTILINE)))
    assert count > 10


def test_numbers_in_bold_on_the_page_of_experiments_are_in_the_tables_of_the_results() -> None:
    page = split((DOCS / "experiments.md").read_text(encoding="utf-8"), "##")
    tables = split((DOCS / "experiments" / "report.md").read_text(encoding="utf-8"), "##")
    assert page.keys() == tables.keys() == {experiment.title for experiment in COURSE.values()}
    for title, section in page.items():
        assert check_bold_numbers(section, tables[title]) >= 4, title


def test_the_page_of_the_scaling_law_shows_its_results() -> None:
    folder = DOCS / "scaling-law"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    printed = (folder / "report.md").read_text(encoding="utf-8")
    assert printed == report(results)
    page = split((DOCS / "scaling-law.md").read_text(encoding="utf-8"), "##")
    assert check_bold_numbers(page["The law of the stories"], printed) >= 10
    assert (folder / "scaling.png").exists()


def test_the_report_of_experiments_is_that_of_the_results() -> None:
    folder = DOCS / "experiments"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert (folder / "report.md").read_text(encoding="utf-8") == report(results)
    assert {path.stem for path in folder.glob("*.png")} == set(COURSE)
    pictures = re.findall(
        r"\]\(experiments/(.*)\.png\)", (DOCS / "experiments.md").read_text(encoding="utf-8")
    )
    assert pictures == list(COURSE)
