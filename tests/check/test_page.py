"""The page of `lm check --html` is complete, shows every verdict, and escapes what it was given."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from parity.case import Case
from parity.check.answer import Finding, Verdict
from parity.check.diagnosis import Diagnosis
from parity.check.page import page
from tests.browser import browse, check_readable, needs_chromium
from tests.check.subjects import MISTAKES

EVIL = "</code><script>alert(1)</script><img src=x onerror=alert(1)>&{{ROWS}}"
OFF = Finding("forward", "output off by 3e-3", Case("rmsnorm", (2, 3), 1), "float32", "output", 3e-3, 1e-6)
VOID = {"meta", "br", "line", "circle"}


def verdicts() -> list[Verdict]:
    named = Diagnosis((MISTAKES["epsilon outside"],), agreement=1e-7, smallest="x = np.array([1 < 2])")
    several = Diagnosis(one_of=((MISTAKES["halves"],), (MISTAKES["backwards"],)), agreement=2e-7)
    composite = Diagnosis(
        (MISTAKES["epsilon outside"], MISTAKES["halves"]), known=("epsilon outside",), agreement=1e-6
    )
    measured = Diagnosis(measured=("the output is 2 times the right one", EVIL))
    errors, budgets = {"forward": 3e-3, "gradient": float("inf")}, {"forward": 1e-6, "gradient": 2e-6}
    diagnoses = {"rmsnorm": named, "rope": several, "transformer_block": composite, EVIL: measured}
    off = [
        Verdict(name, f"run_{name}", "off", errors, budgets, findings=(OFF,), diagnosis=diagnosis)
        for name, diagnosis in diagnoses.items()
    ]
    right = Verdict(
        "softmax", "run_softmax", "pass", {"forward": 1e-8}, {"forward": 1e-6}, notes=("float32 only",)
    )
    return [*off, right, Verdict("embedding", "run_embedding", "not written")]


@pytest.fixture(scope="module")
def made() -> str:
    return page(EVIL, "4 of 5 functions off", verdicts())


def text_of(html: str) -> str:
    """Return the words of a page."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_every_tag_is_closed_and_nothing_is_loaded(made: str) -> None:
    open_tags: list[str] = []
    attributes: list[tuple[str, str | None]] = []
    tags: set[str] = set()

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.add(tag)
            attributes.extend(attrs)
            if tag not in VOID:
                open_tags.append(tag)

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.handle_starttag(tag, attrs)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Parser().feed(made)
    assert not open_tags
    assert not tags & {"script", "img", "link", "iframe", "object"}
    assert not any(name in ("src", "href") or name.startswith("on") for name, _ in attributes)
    assert "url(" not in made
    assert "{{TARGET" not in made


def test_every_verdict_is_shown(made: str) -> None:
    words = text_of(made)
    for verdict in verdicts()[:3] + verdicts()[4:]:
        assert f"{verdict.subject} {verdict.function}" in words
    assert "4 of 5 functions off" in words
    assert "softmax run_softmax pass 1e-08" in words
    assert "not written" in words
    assert "float32 only" in words


def test_the_diagnosis_is_told_with_its_formula_and_case(made: str) -> None:
    words = text_of(made)
    assert (
        "epsilon outside The code does this. That follows. The right formula: y = f(x) (A paper, eq. 1)"
        in words
    )
    assert "With this change the function agrees to 1e-07." in words
    assert "x = np.array([1 &lt; 2])" in made
    assert "It is one of these mistakes. No case told them apart. halves" in words
    assert "epsilon outside see above" in words
    assert "the output is 2 times the right one" in words
    assert "output off by 3e-3 2x3, seed 1, scale 1, causal, from 0 float32" in words


def test_errors_stand_on_a_line_beside_their_budget(made: str) -> None:
    places = [float(x) for x in re.findall(r'circle class="\w+" cx="([\d.]+)"', made)]
    assert min(places) >= 4
    assert max(places) == 116
    within = re.search(
        r'x1="([\d.]+)" x2="[\d.]+" y1="2" y2="14"/><circle class="within" cx="([\d.]+)"', made
    )
    assert within
    assert float(within[2]) < float(within[1])


@needs_chromium
def test_the_page_in_a_browser(made: str, tmp_path: Path) -> None:
    looks = 'look(), (all("summary").forEach(summary => summary.click()), look())'
    for closed, opened in browse(made, looks, tmp_path):
        check_readable(closed)
        check_readable(opened)
        assert len(opened["texts"]) >= len(closed["texts"]) + 3 * made.count("<summary>")
