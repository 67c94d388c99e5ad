"""Which tests may notice a mutant: the files that should, and in each the tests that execute the mutant's lines."""

import hashlib
import json
import re
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from tests.faults.run import COPIED, copied_tree, run_tests
from tests.mutants.mutant import Mutant
from tests.source import ROOT

_LONGEST = 1200
"""Seconds that a file of tests may take while coverage measures it."""
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

    A file of tests is measured when its tests are asked for. The result is kept until the code or the tests change.
    """

    def __init__(self, folder: Path) -> None:
        self.state = _state()
        self._folder = folder / self.state
        self._folder.mkdir(parents=True, exist_ok=True)
        self._locks: dict[str, threading.Lock] = {}

    def tests(self, file: str, mutant: Mutant) -> dict[str, float]:
        """Return the tests of a file that execute a mutant's lines: name -> seconds."""
        measured = self._measured(file)
        names = list(measured["seconds"])
        lines = measured["lines"].get(mutant.file, {})
        reached = {number for line in mutant.lines for number in lines.get(str(line), [])}
        if -1 in reached:
            reached = {*range(len(names))}
        return {names[number]: measured["seconds"][names[number]] for number in reached}

    def all_tests(self, file: str) -> dict[str, float]:
        """Return all tests of a file: name -> seconds."""
        seconds: dict[str, float] = self._measured(file)["seconds"]
        return seconds

    def _measured(self, file: str) -> dict[str, Any]:
        with self._locks.setdefault(file, threading.Lock()):
            path = self._folder / f"{file.replace('/', '.')}.json"
            if not path.exists():
                path.write_text(json.dumps(_measure(file)), encoding="utf-8")
            measured: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return measured


def _measure(file: str) -> dict[str, Any]:
    with copied_tree() as tree:
        out = tree / "contexts.json"
        with suppress(TimeoutError):
            run_tests(tree, "-p", "tests.mutants.contexts", file, seconds=_LONGEST, MUTANTS_CONTEXTS=str(out))
        if not out.exists():  # the file of tests does not end, or it cannot be measured
            return {"seconds": {}, "lines": {}}
        measured: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return measured


def _state() -> str:
    """Return a name for the code and the tests at hand."""
    digest = hashlib.sha256()
    for name in COPIED:
        for path in sorted((ROOT / name).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]
