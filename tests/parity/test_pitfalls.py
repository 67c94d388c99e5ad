"""docs/pitfalls.md names tests that exist, at least one for each entry."""

import ast
import re

from tests.source import ROOT

ENTRIES = re.split(r"^### ", (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[
    1:
]


def test_every_entry_names_a_test() -> None:
    assert len(ENTRIES) > 20
    for entry in ENTRIES:
        assert re.search(r"^- `tests/.+\.py::test_\w+`$", entry, flags=re.MULTILINE), entry


def test_every_named_test_exists() -> None:
    for file, name in re.findall(r"`(tests/\S+\.py)::(\w+)`", "".join(ENTRIES)):
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (
            f"{file}::{name}"
        )
