"""Which tests may notice a mutant: the files that should, and in each the tests that execute the mutant's lines."""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests.faults.run import COPIED, copied_tree, run_tests
from tests.mutants.mutant import Mutant
from tests.source import ROOT

PACKAGES = ("torch_impl", "jax_impl", "lm", "tokenizer")
JOBS = 2
"""Processes at once."""
_HOMES = {"torch_impl": "tests/parity", "jax_impl": "tests/parity"}


@cache
def candidates(file: str, names: tuple[str, ...]) -> list[str]:
    """Return the test files that should notice a change in these functions of a file, the likeliest first.

    A file is likely if it has the module's or the function's name, if it says these names and few other files do, and
    if it lies where the module's tests lie.
    """
    path, texts = Path(file), _texts()
    words = {name.strip("_") for name in (*names, path.stem, path.parent.name)}
    saying = {
        word: {test for test in texts if re.search(rf"\b_*{re.escape(word)}\b", texts[test])}
        for word in words
    }
    scores = {
        test: 2 * (Path(test).stem.removeprefix("test_") in words)
        + sum(1 / len(tests) for tests in saying.values() if test in tests)
        + 0.2 * (Path(test).parent == _home(path.parent))
        for test in texts
    }
    return sorted(filter(scores.get, scores), key=lambda test: (-scores[test], len(texts[test])))


@cache
def _texts() -> dict[str, str]:
    """Return what each test file says, with what the helpers beside it say that it names."""
    said = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("*.py"))}
    return {
        path.relative_to(ROOT).as_posix(): text
        + "".join(said[helper] for helper in said if helper.parent == path.parent and helper.stem in text)
        for path, text in said.items()
        if path.stem.startswith("test_")
    }


def _home(folder: Path) -> Path:
    """Return where the tests of a package lie."""
    home = Path(_HOMES.get(folder.parts[0], f"tests/{folder.as_posix()}"))
    return home if (ROOT / home).is_dir() else _home(folder.parent)


class Reach:
    """The lines that each test executes.

    A file of tests is measured again if it changes. All files are measured again if the code changes.
    """

    def __init__(self, folder: Path, files: Sequence[str] | None = None) -> None:
        """Measure the files of tests that have not been measured.

        Args:
            folder: Where the measurements are kept.
            files: Files of tests. Default: all.
        """
        self.state = _digest(COPIED)
        files = sorted(_texts()) if files is None else files
        homes = {file: folder / _digest(PACKAGES) / _digest((file,)) for file in files}
        if missing := [file for file, home in homes.items() if not home.is_dir()]:
            _measure(missing, homes)
        self._measured: dict[str, Any] = {
            file: json.loads((home / "reach.json").read_text(encoding="utf-8"))
            for file, home in homes.items()
            if (home / "reach.json").exists()
        }

    def tests(self, mutant: Mutant) -> dict[str, dict[str, float]]:
        """Return the tests that execute a mutant's lines: file of tests -> test -> seconds, the fastest first."""
        found = {}
        for file, measured in self._measured.items():
            lines = measured["lines"].get(mutant.file, {})
            reached = {number for line in mutant.lines for number in lines.get(str(line), [])}
            tests = self.all_tests(file)
            chosen = {test: tests[test] for i, test in enumerate(measured["seconds"]) if {i, -1} & reached}
            if chosen:
                found[file] = dict(sorted(chosen.items(), key=lambda item: item[1]))
        return found

    def all_tests(self, file: str) -> dict[str, float]:
        """Return all tests of a file that pass without a mutant: name -> seconds."""
        seconds: dict[str, float] = self._measured.get(file, {}).get("seconds", {})
        return seconds


def _measure(files: Sequence[str], homes: dict[str, Path]) -> None:
    """Run files of tests, and write what each executes into its home."""
    with copied_tree() as tree, tempfile.TemporaryDirectory() as out:
        at_once = ("-n", str(JOBS), "--dist", "loadfile") if len(files) > 1 else ()
        run_tests(tree, "-p", "tests.mutants.contexts", *at_once, *files, MUTANTS_REACH=out)
        for file in files:
            homes[file].mkdir(parents=True, exist_ok=True)
            if (written := Path(out, file.replace("/", "."))).exists():
                shutil.copy(written, homes[file] / "reach.json")


def _digest(names: Sequence[str]) -> str:
    """Return a name for the content of files and folders."""
    digest = hashlib.sha256()
    for name in names:
        for path in sorted([ROOT / name, *(ROOT / name).rglob("*.py")]):
            if path.is_file():
                digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]
