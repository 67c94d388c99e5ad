"""docs/models.md: its commands and its Python, run in order in one folder, print what the page shows."""

import doctest
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.lm.conftest import lm
from tests.source import ROOT

PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
NUMBER = r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?"


def agrees(shown: str, printed: str) -> bool:
    """Return whether a line is what the page shows: words and whole numbers are equal, and measured numbers are near.

    Errors in scientific notation depend on the machine: they agree within a factor of 100. A shown line that ends in
    "..." is the beginning of a line.
    """
    if shown.endswith("..."):
        shown = shown.removesuffix("...")
        printed = printed[: len(shown.strip())]
    if "".join(re.sub(NUMBER, "#", shown).split()) != "".join(re.sub(NUMBER, "#", printed).split()):
        return False
    for a, b in zip(re.findall(NUMBER, shown), re.findall(NUMBER, printed), strict=True):
        x, y = (float(number.replace(",", "")) for number in (a, b))
        if "e" in a + b:
            near = x <= 100 * y and y <= 100 * x
        else:
            near = y == pytest.approx(x, rel=0.02) if "." in a else a == b
        if not near:
            return False
    return True


def exit_code(command: str) -> object:
    """Run a command of `lm` in this process."""
    try:
        return lm(*shlex.split(command))
    except SystemExit as ended:
        return ended.code


def test_the_comparison_of_lines_finds_differences() -> None:
    assert agrees("step 50: loss 2.50, error 3e-07", "step  50: loss 2.51, error 9e-07")
    for other in ("step 51: loss 2.50, error 3e-07", "step 50: loss 2.7, error 3e-07", "stop 50: loss 2.50"):
        assert not agrees("step 50: loss 2.50, error 3e-07", other)
    assert not agrees("error 3e-07", "error 3e-04")
    assert agrees("    Once...", "Once upon")
    assert not agrees("    Once...", "One day")


def test_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    names: dict[str, Any] = {}
    blocks = re.findall(r"(?:^    .*\n)+", PAGE, re.MULTILINE)
    assert sum(block.count("$ lm ") for block in blocks) >= 13
    for block in blocks:
        if block.startswith("    >>>"):
            example = doctest.DocTestParser().get_doctest(block, names, "models.md", None, None)
            assert doctest.DocTestRunner().run(example, clear_globs=False).failed == 0
            names = example.globs
            continue
        for command, shown in re.findall(r"^    \$ lm (.*)\n((?:    (?!\$).*\n)*)", block, re.MULTILINE):
            capsys.readouterr()
            assert exit_code(command) == 0, command
            printed = iter(capsys.readouterr().out.splitlines())
            for line in shown.splitlines():
                # Lines come in the order shown, because the iterator continues after each.
                assert any(agrees(line, other) for other in printed), f"{command}: {line}"
