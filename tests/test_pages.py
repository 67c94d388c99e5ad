"""README and the pages of docs/ name files, headings and commands that exist."""

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any, get_args

import pytest

from lm.cli.commands import parse
from lm.config import ModelConfig, OptimizerConfig, model, training
from tests.source import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}

CONFIG = str(ROOT / "configs" / "demo.toml")
REQUIRED = {
    ("train",): ["--backend=jax", "--train=a.npy", "--val=b.npy", "--out=run", f"--config={CONFIG}"],
    ("tokenizer", "train"): ["--input=text.txt", "--out=tokenizer", "--vocab-size=300"],
    ("tokenizer", "encode"): ["--tokenizer=tokenizer", "--input=text.txt", "--out=ids.npy"],
}
"""What `...` stands for in an example."""


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(TEXTS[target]), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_in_backticks_exist(page: Path) -> None:
    rooms = "tokenizer|lm|torch_impl|jax_impl|parity|tests|bench|configs|docs"
    for path in re.findall(rf"`((?:{rooms})/[\w./-]*)", TEXTS[page]):
        assert (ROOT / path).exists(), path


def test_the_readme_is_short() -> None:
    assert len(TEXTS[ROOT / "README.md"].split()) < 1000


@pytest.mark.parametrize(
    ("section", "config", "choices"),
    [
        (
            "One model, a family",
            ModelConfig,
            (model.FeedForward, model.NormPosition, model.NormGain, model.RopeScaling, model.Position),
        ),
        (
            "Optimizer and loss",
            OptimizerConfig,
            (training.Optimizer, training.AdamWForm, training.MuonScale, training.Schedule, training.Decay),
        ),
    ],
)
def test_every_setting_is_explained(section: str, config: Any, choices: tuple[Any, ...]) -> None:
    text = TEXTS[ROOT / "docs" / "training.md"].partition(f"## {section}\n")[2].partition("\n## ")[0]
    explained = set(re.findall(r"`([\w-]+)`", text))
    assert explained >= {field.name for field in dataclasses.fields(config)}
    for choice in choices:
        assert explained >= set(get_args(choice))


def examples(text: str) -> list[list[str]]:
    """Return the words after `lm` of each command in a page's blocks of code."""
    blocks = re.findall(r"^```sh\n(.*?)^```$|((?:^ {4}.*\n)+)", text, flags=re.MULTILINE | re.DOTALL)
    code = "".join(fenced or indented for fenced, indented in blocks).replace("\\\n", " ")
    lines = re.findall(
        r"^ *(?:\$ |srun |[A-Z_]+=|torchrun .*-m |)(?:\S*=\S* )*lm (.*)$", code, flags=re.MULTILINE
    )
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path) -> None:
    for words in examples(TEXTS[page]):
        if "--config" in words:  # the parser reads the file
            words[words.index("--config") + 1] = CONFIG
        if "..." in words:
            words.remove("...")
            command = next(command for command in REQUIRED if tuple(words[: len(command)]) == command)
            words += [flag for flag in REQUIRED[command] if flag.partition("=")[0] not in words]
        parse(words)


def test_the_pages_hold_many_commands() -> None:
    assert len(examples(TEXTS[ROOT / "README.md"])) >= 10
    assert sum(len(examples(text)) for text in TEXTS.values()) > 60
