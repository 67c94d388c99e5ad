"""Apply a fault in a copy of the tree and see whether the tests of its layer notice."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.faults.fault import Fault
from tests.source import ROOT

COPIED = ("tokenizer", "lm", "torch_impl", "jax_impl", "parity", "tests", "pyproject.toml")


def broken(fault: Fault) -> str:
    """The text of the fault's file with the fault in it."""
    text = (ROOT / fault.file).read_text(encoding="utf-8")
    if (count := text.count(fault.old)) != 1:
        raise LookupError(f"'{fault.name}': found {count} times in {fault.file}, not once: {fault.old!r}")
    return text.replace(fault.old, fault.new)


def turns_red(tests: Iterable[str], fault: Fault | None = None) -> bool:
    """Whether a test fails in a copy of the tree, with the fault in it. Any other end than red or green raises."""
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, Path(folder) / name)
        if fault is not None:
            (Path(folder) / fault.file).write_text(broken(fault), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        # Hypothesis need not look for the smallest failing case.
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "LM_HYPOTHESIS": "faults"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.returncode == 1
