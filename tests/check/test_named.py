"""A diagnosis names the mistakes that are injected into code of another hand: all of them in docs/check-mistakes.md."""

import re
from typing import Any

import pytest

from parity.case import Given
from parity.check import diagnose
from parity.check.table import SUBJECTS
from parity.mistakes import MISTAKES, Mistake
from tests.check.injected.arrays import Framework, Tree
from tests.check.injected.ask import ask
from tests.check.injected.layers import INJECTED
from tests.check.injected.named import outcomes
from tests.source import ROOT

PAGE = (ROOT / "docs" / "check-mistakes.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (.+?) \| .+? \| (?:output|gradient) \| (.*) \|$", re.MULTILINE)
ROWS = {name: said.split(" | ") for name, said in ROW.findall(PAGE)}
"""What was said of each mistake in torch and in JAX, or in Python."""
TABLE = [mistake for mistake in MISTAKES if len(ROWS.get(mistake.name, [])) == 2]


@pytest.fixture(autouse=True)
def time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnose, "SECONDS", 30.0)


@pytest.mark.parametrize(("framework", "sample"), [("torch", TABLE[::20]), ("jax", TABLE[:1])])
def test_a_sample_of_the_table_is_as_the_page_says(framework: Framework, sample: list[Mistake]) -> None:
    """The page's command says it of all mistakes, which takes minutes, in JAX because it compiles."""
    found = {outcome.mistake: outcome for outcome in outcomes(framework, sample)}
    for mistake in sample:
        said = ROWS[mistake.name][framework == "jax"]
        assert found[mistake.name].listed == (said in ("named", "not connected") or said.startswith("one of"))
        assert found[mistake.name].exact == (said in ("named", "not connected")), mistake.name


def test_the_page_has_every_mistake() -> None:
    assert sorted(ROWS) == sorted(mistake.name for mistake in MISTAKES)


def test_the_page_names_at_least_95_percent_exactly() -> None:
    said = [cell for cells in ROWS.values() for cell in cells]
    assert sum(cell in ("named", "not connected") for cell in said) >= 0.95 * len(said)
    assert not [cell for cell in said if cell.startswith("**")]


@pytest.mark.parametrize("first", ["epsilon outside the root", "mean over all axes", "root missing"])
def test_two_mistakes_in_one_function_get_no_wrong_name(first: str) -> None:
    """The second one is 1 + weight."""
    subject = next(s for s in SUBJECTS if s.name == "rmsnorm")

    def both(xp: Any, arrays: Tree, given: Given, wrong: str) -> Any:
        return INJECTED["rmsnorm"](xp, arrays | {"weight": 1 + arrays["weight"]}, given, wrong)

    found = diagnose.diagnose(subject, ask("torch", both, f"RMSNorm: {first}"))
    assert found.smallest
    assert not found.mistakes
    assert not found.one_of
