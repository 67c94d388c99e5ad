"""Run the tests of the course's assignment, of any year and unchanged: `python -m tests.course FOLDER`.

The folder is the assignment's `tests`, or the repository that holds it. A copy of it gets our adapters in place of its
own. The tests themselves say which year's adapters they import.
"""

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lm.terminal import run_program
from tests.source import ROOT
from tokenizer.errors import InputError

_ONLY_2024 = "run_positionwise_feedforward"

# In the copy the package is called tests, as in the assignment. Ours is loaded first, and then forgotten by that name.
_BOOTSTRAP = """
import importlib, sys
sys.path.insert(0, {root!r})
ours = importlib.import_module({adapters!r})
others = importlib.import_module("tests.adapters")
for name, value in vars(others).items():
    vars(ours).setdefault(name, value)
for name in [name for name in sys.modules if name == "tests" or name.startswith("tests.")]:
    del sys.modules[name]
sys.path[0] = {folder!r}
sys.modules["twinlm_adapters"] = ours
import pytest
sys.exit(pytest.main({arguments!r}))
"""
_ADAPTERS = 'import sys\n\nsys.modules[__name__] = sys.modules["twinlm_adapters"]\n'


def find_tests(folder: Path) -> Path:
    """Return the folder that holds the assignment's tests.

    Raises:
        InputError: there are none, or they need a newer Python.
    """
    for tests in (folder, folder / "tests"):
        files = sorted(tests.glob("*.py"))
        if not any(file.name.startswith("test_") for file in files):
            continue
        for file in files:
            try:
                ast.parse(file.read_bytes(), str(file))
            except SyntaxError as error:
                version = ".".join(map(str, sys.version_info[:2]))
                raise InputError(
                    f"{file}:{error.lineno}: is not valid in Python {version} ({error.msg}); use a newer Python"
                ) from None
        return tests
    raise InputError(f"{folder}: holds no test_*.py; give the folder tests of the course's assignment")


def year_of(tests: Path) -> str:
    """Return the module of the adapters that these tests import."""
    is_2024 = any(_ONLY_2024 in file.read_text("utf-8") for file in tests.glob("test_*.py"))
    return "tests.adapters_2024" if is_2024 else "tests.adapters"


def run(folder: Path, backend: str, arguments: list[str]) -> int:
    """Run the tests and return pytest's exit code.

    Args:
        arguments: For pytest, such as `-k rope`.

    Raises:
        InputError: as `find_tests`.
    """
    tests = find_tests(folder)
    with tempfile.TemporaryDirectory() as temporary:
        shutil.copytree(tests, Path(temporary) / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        (Path(temporary) / "tests" / "adapters.py").write_text(_ADAPTERS)
        (Path(temporary) / "tests" / "__init__.py").touch()
        (Path(temporary) / "pytest.ini").write_text("[pytest]\n")
        bootstrap = _BOOTSTRAP.format(
            root=str(ROOT), adapters=year_of(tests), folder=temporary, arguments=["tests", *arguments]
        )
        command = [sys.executable, "-c", bootstrap]
        return subprocess.run(command, cwd=temporary, env=os.environ | {"LM_BACKEND": backend}).returncode


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.course",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="folder of the assignment, or its tests")
    parser.add_argument(
        "--backend",
        choices=("torch", "jax"),
        default=os.environ.get("LM_BACKEND", "torch"),
        help="default: torch",
    )
    options, arguments = parser.parse_known_args()
    return run(options.folder, options.backend, arguments)


if __name__ == "__main__":
    sys.exit(run_program("tests.course", main))
