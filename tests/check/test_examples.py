"""The examples of docs/check.md print what the page shows, and its table lists what can be checked."""

import math
import re

import pytest

from parity.check.run import EXACT
from parity.check.table import SUBJECTS
from tests.lm.conftest import lm
from tests.source import ROOT

PAGE = (ROOT / "docs" / "check.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^    \$ lm (check docs/examples/\S+)\n((?:    .*\n)+)", PAGE, re.MULTILINE)
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?")


def protocol() -> str:
    """Return the table of what can be checked: a row for each subject, with its functions and their parameters."""
    rows = ["| what | function |", "| --- | --- |"]
    for subject in SUBJECTS:
        given = subject.given(subject.cases[0])
        calls = [f"`{call.function}({', '.join(call.arguments(given))})`" for call in subject.calls]
        if subject.calls[0].through:  # called step by step
            calls = [f"`{call.function}`" for call in subject.calls]
        rows.append(f"| {subject.name} | {'<br>'.join(dict.fromkeys(calls))} |")
    for exact in EXACT:
        ways = ["`" + "`, `".join(way.values()) + "`" for way in exact.functions]
        rows.append(f"| {exact.name} | {'<br>'.join(ways)} |")
    return "\n".join(rows) + "\n"


def test_the_page_lists_every_function_and_its_parameters() -> None:
    assert protocol() in PAGE


def about_equal(a: str, b: str) -> bool:
    """Whether two numbers are equal, or two errors about as large: other processors round in another way."""
    x, y = float(a), float(b)
    return math.isclose(x, y, rel_tol=1e-5) or (
        abs(x) < 1e-2 and abs(y) < 1e-2 and x * y > 0 and 1 / 4 < x / y < 4
    )


@pytest.mark.parametrize(("command", "shown"), EXAMPLES, ids=[command.split()[1] for command, _ in EXAMPLES])
def test_an_example_prints_what_the_page_shows(
    command: str, shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("JAX_ENABLE_X64", "JAX_NUMPY_RANK_PROMOTION", "JAX_NUMPY_DTYPE_PROMOTION"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit, match="1"):
        lm(*command.split())
    printed = capsys.readouterr().out.split()
    wanted = shown.split()
    assert [NUMBER.sub("#", word) for word in printed] == [NUMBER.sub("#", word) for word in wanted]
    pairs = zip(NUMBER.findall(" ".join(printed)), NUMBER.findall(" ".join(wanted)), strict=True)
    assert [pair for pair in pairs if not about_equal(*pair)] == []


def test_each_of_three_examples_has_a_file_and_is_on_the_page() -> None:
    files = {command.split()[1] for command, _ in EXAMPLES}
    assert files == {f"docs/examples/{path.name}" for path in (ROOT / "docs" / "examples").glob("*.py")}
    assert len(files) == 3
