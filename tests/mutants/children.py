"""Measure which lines the processes of tests/lm/processes.py execute. One that is killed writes nothing."""

import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import coverage

from tests.lm import processes
from tests.mutants.reach import PACKAGES
from tests.source import ROOT


def started_coverage() -> coverage.Coverage:
    """Return a measurement of this process's lines, which has started."""
    measured = coverage.Coverage(
        data_file=None, config_file=False, source=[str(ROOT / package) for package in PACKAGES]
    )
    measured.start()
    return measured


def run(files: Sequence[Path], variables: dict[str, str], module: str, words: list[str]) -> None:
    """Do what `processes.run` does, and write the lines for `found`."""
    measured = started_coverage()
    try:
        processes.run(files, variables, module, words)
    finally:
        measured.stop()
        data = measured.get_data()
        lines = {Path(path).relative_to(ROOT).as_posix(): data.lines(path) for path in data.measured_files()}
        folder = _folder()
        folder.mkdir(exist_ok=True)
        written = json.dumps({"context": os.environ["MUTANTS_TEST"], "lines": lines})
        (folder / uuid.uuid4().hex).write_text(written, encoding="utf-8")


def found() -> list[dict[str, Any]]:
    """Return for each process the test that started it, and module -> lines."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in _folder().glob("*")]


def _folder() -> Path:
    return Path(os.environ["MUTANTS_REACH"], "processes")
