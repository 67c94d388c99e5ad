"""The answers' page: what its commands print is what the page shows."""

import doctest
import re
import shlex
from pathlib import Path

import pytest

from tests.lm.conftest import lm

PAGE = Path(__file__).parents[2] / "docs" / "answers.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    \$ lm (.*)\n((?:    (?!\$).+\n)+)", TEXT, re.MULTILINE)
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


def test_python_prints_what_is_shown() -> None:
    result = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert result.attempted > 15
    assert result.failed == 0


def test_numbers_in_bold_have_been_printed() -> None:
    sections = re.split(r"^###? ", TEXT, flags=re.MULTILINE)
    bold = [
        (number, section) for section in sections for number in re.findall(r"\*\*([\d.,e+%]+)\*\*", section)
    ]
    assert len(bold) > 15
    for number, section in bold:
        printed = " ".join(re.findall(r"^    .*$", section, re.MULTILINE))
        assert re.search(rf"(?<![\d.,]){re.escape(number)}(?![\d.,])", printed), number
