"""A pytest plugin: write which lines each test executes, and how much processor time the test takes.

Coverage measures. What runs outside of a test's own call, such as a fixture, counts for every test of the file.
"""

import json
import os
from collections.abc import Generator
from pathlib import Path

import coverage
import pytest

from tests.source import ROOT

PACKAGES = ("torch_impl", "jax_impl", "lm", "tokenizer")
_SECONDS: dict[str, float] = {}
_COVERAGE = coverage.Coverage(
    data_file=None, config_file=False, source=[str(ROOT / package) for package in PACKAGES]
)
_COVERAGE.start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Measure one test. Only a test that passes is of use."""
    _COVERAGE.switch_context(item.nodeid)
    start = sum(os.times()[:4])
    try:
        yield
        _SECONDS[item.nodeid] = sum(os.times()[:4]) - start
    finally:
        _COVERAGE.switch_context("")


def pytest_sessionfinish() -> None:
    """Write the times and, for each file, line -> numbers of the tests; -1 stands for all tests."""
    _COVERAGE.stop()
    data = _COVERAGE.get_data()
    number = {test: i for i, test in enumerate(_SECONDS)} | {"": -1}
    lines = {
        Path(file).relative_to(ROOT).as_posix(): {
            line: [number[context] for context in contexts if context in number]
            for line, contexts in data.contexts_by_lineno(file).items()
        }
        for file in data.measured_files()
    }
    written = json.dumps({"seconds": _SECONDS, "lines": lines})
    Path(os.environ["MUTANTS_CONTEXTS"]).write_text(written, encoding="utf-8")
