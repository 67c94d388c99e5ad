"""The pages of answers and of scaling: what their commands print is what they show."""

import doctest
import re
import shlex
from pathlib import Path

import pytest

from tests.lm.conftest import lm

PAGES = {
    name: (Path(__file__).parents[3] / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for name in ("answers", "scaling")
}
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
        # Lines come in the order shown, since the iterator goes on after each.
        assert words(line) == "..." or words(line) in printed, line


@pytest.mark.parametrize("page", PAGES)
def test_python_prints_what_is_shown(page: str) -> None:
    example = doctest.DocTestParser().get_doctest(PAGES[page], {}, page, None, None)
    result = doctest.DocTestRunner().run(example)
    assert result.attempted >= 13
    assert result.failed == 0


@pytest.mark.parametrize("page", PAGES)
def test_numbers_in_bold_have_been_printed(page: str) -> None:
    sections = re.split(r"^###? ", PAGES[page], flags=re.MULTILINE)
    bold = [
        (number, section) for section in sections for number in re.findall(r"\*\*([\d.,e+%]+)\*\*", section)
    ]
    assert len(bold) > 10
    for number, section in bold:
        printed = " ".join(re.findall(r"^    .*$", section, re.MULTILINE))
        assert re.search(rf"(?<![\d.,]){re.escape(number)}(?![\d.,])", printed), number
