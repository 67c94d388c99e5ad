"""Nothing depends on one platform: what only Unix has, and what a text file's encoding and line ends are by default."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.source import ROOT, modules

MODES = {a + b + c for a in "rwax" for b in ("", "b") for c in ("", "+")} | {"r+b", "w+b"}
PACKAGES = ("tokenizer", "lm", "torch_impl", "jax_impl", "bench")


def test_everything_works_where_python_lacks_what_is_of_unix_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.elsewhere", tmp_path],
        cwd=ROOT,
        # JAX locks its programs with a Unix or a Windows lock. This process has neither.
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if "arning" in line]
    assert [
        line for line in warnings if "only soft file lock is available" not in line
    ] == []  # filelock's, of Unix
    assert not list(tmp_path.rglob(".*"))


def platforms_own(tree: ast.AST) -> Iterator[str]:
    """The calls that read or write text as the platform at hand would: its encoding, its line ends."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        utf8, as_is = (
            isinstance(value := keywords.get(name), ast.Constant) and value.value == fits
            for name, fits in (("encoding", "utf-8"), ("newline", ""))
        )
        match call.func:
            case ast.Attribute(ast.Name("files"), "read_text" | "write_text"):
                continue  # tokenizer.files
            case ast.Attribute(_, "read_text"):
                modes, as_is = ["r"], False  # it always translates line ends
            case ast.Attribute(_, "write_text"):
                modes = ["w"]
            case ast.Name("open") | ast.Attribute(_, "open"):
                given = [*call.args, *filter(None, [keywords.get("mode")])]
                modes = [str(a.value) for a in given if isinstance(a, ast.Constant) and a.value in MODES]
                if not modes and (isinstance(call.func, ast.Name) or not given):
                    modes = ["r"]  # a method that is given something else opens no path: os.open, an address
            case _:
                continue
        if any("b" not in mode for mode in modes) and not (utf8 and as_is):
            yield f"line {call.lineno}: {ast.unparse(call)}"


@pytest.mark.parametrize("package", PACKAGES)
def test_text_files_are_utf_8_with_their_own_line_ends(package: str) -> None:
    found = [f"{name}, {what}" for name, tree in modules(package).items() for what in platforms_own(tree)]
    assert not found, "\n".join(found)


def test_the_check_of_text_files_finds_what_it_is_for() -> None:
    bad = (
        "open(p)",
        "open(p, 'w')",
        "p.open('a', encoding='utf-8')",
        "p.read_text(encoding='utf-8')",
        "p.write_text(x)",
    )
    good = (
        "open(p, 'rb')",
        "p.open('w', encoding='utf-8', newline='')",
        "files.read_text(p)",
        "os.open(p, 0)",
    )
    assert all(list(platforms_own(ast.parse(text))) for text in bad)
    assert not any(list(platforms_own(ast.parse(text))) for text in good)
