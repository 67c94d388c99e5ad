"""Docs: commands and Python print what the pages show, and numbers in bold are computed."""

import doctest
import json
import re
import shlex

import pytest

from lm.experiment.catalogue import COURSE, EXPERIMENTS
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


# Page of docs, and folder beside it -> the experiments that both show, in the page's order.
RESULTS = {"experiments": list(COURSE), "recipes": ["recipes", "optimizer"]}


@pytest.mark.parametrize("page", RESULTS)
def test_numbers_in_bold_on_a_page_of_experiments_are_in_the_tables_of_the_results(page: str) -> None:
    sections = split((DOCS / f"{page}.md").read_text(encoding="utf-8"), "##")
    tables = split((DOCS / page / "report.md").read_text(encoding="utf-8"), "##")
    assert sections.keys() == tables.keys() == {EXPERIMENTS[name].title for name in RESULTS[page]}
    for title, section in sections.items():
        assert check_bold_numbers(section, tables[title]) >= 4, title


def test_the_page_of_the_scaling_law_shows_its_results() -> None:
    folder = DOCS / "scaling-law"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    printed = (folder / "report.md").read_text(encoding="utf-8")
    assert printed == report(results)
    page = split((DOCS / "scaling-law.md").read_text(encoding="utf-8"), "##")
    assert check_bold_numbers(page["The law of the stories"], printed) >= 10
    assert (folder / "scaling.png").exists()


@pytest.mark.parametrize("page", RESULTS)
def test_the_report_of_experiments_is_that_of_the_results(page: str) -> None:
    folder = DOCS / page
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert (folder / "report.md").read_text(encoding="utf-8") == report(results)
    assert {path.stem for path in folder.glob("*.png")} == set(RESULTS[page])
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert re.findall(rf"\]\({page}/(.*)\.png\)", text) == RESULTS[page]


def test_the_steps_of_the_leaderboard_fill_its_45_minutes(capsys: Capture) -> None:
    assert lm("accounting", ROOT / "configs" / "leaderboard.toml", "--mfu", 0.3, "--json") == 0
    seconds = json.loads(capsys.readouterr().out)["training"]["seconds"]
    assert 0.95 < seconds / (45 * 60) < 1
