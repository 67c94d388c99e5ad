"""A pytest plugin: write which lines each test executes, and how much processor time the test takes.

Coverage measures this process and those of tests/lm/processes.py. What a fixture executes counts for every test of the
file.
"""

import json
import os
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.lm import processes
from tests.mutants import children
from tests.source import ROOT

_SECONDS: dict[str, dict[str, float]] = defaultdict(dict)
"""File of tests -> test -> processor time."""
_COVERAGE = children.started_coverage()
processes.run = children.run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """Measure the fixtures of a file."""
    _switch(_file(item.nodeid))
    yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Measure one test. Only a test that passes is of use."""
    _switch(item.nodeid)
    start = sum(os.times()[:4])
    try:
        yield
        _SECONDS[_file(item.nodeid)][item.nodeid] = sum(os.times()[:4]) - start
    finally:
        _switch("")


def pytest_sessionfinish() -> None:
    """Write for each file of tests the times and, for each module, line -> numbers of the tests; -1 stands for all."""
    _COVERAGE.stop()
    data = _COVERAGE.get_data()
    number = dict.fromkeys(_SECONDS, -1) | {
        test: i for tests in _SECONDS.values() for i, test in enumerate(tests)
    }
    lines: dict[str, dict[str, dict[int, list[int]]]] = {file: defaultdict(dict) for file in _SECONDS}
    for path in data.measured_files():
        module = Path(path).relative_to(ROOT).as_posix()
        for line, contexts in data.contexts_by_lineno(path).items():
            for context in contexts:
                if context in number:
                    lines[_file(context)][module].setdefault(line, []).append(number[context])
    for process in children.found():
        for module, numbers in process["lines"].items() if process["context"] in number else ():
            of_module = lines[_file(process["context"])][module]
            for line in numbers:
                of_module.setdefault(line, []).append(number[process["context"]])
    for file, seconds in _SECONDS.items():
        written = json.dumps({"seconds": seconds, "lines": lines[file]})
        Path(os.environ["MUTANTS_REACH"], file.replace("/", ".")).write_text(written, encoding="utf-8")


def _switch(context: str) -> None:
    _COVERAGE.switch_context(context)
    os.environ["MUTANTS_TEST"] = context


def _file(test: str) -> str:
    return test.split("::")[0]
