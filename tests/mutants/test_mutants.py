"""The mutants that `make mutants` tries: each changes one place of the code, and none changes only what is said."""

import ast
import os
from pathlib import Path

import pytest

from tests.mutants.__main__ import judge, of_file, sample
from tests.mutants.mutant import mutants
from tests.mutants.reach import Reach, candidates
from tests.source import ROOT

EXAMPLE = '''"""A text with 1 + 1."""

import typing
from typing import TYPE_CHECKING, Literal, overload

if TYPE_CHECKING:
    HIDDEN = 1
LIMIT: Literal[3] = 3
Kind = Literal[1, 2]


@overload
def f(x: int = 1) -> int: ...
def f(x: int | None = 2, y: "Float[Array, '4']" = None) -> int:
    """Add 5 and 6."""
    assert x > 7
    if x is not None and x < LIMIT:
        raise InputError(f"{x + 8} is less than 9" % (10,))
    warnings.warn(x + 11)
    x += 12
    g(x, -y)
    return x


class C:
    """A class with 13."""

    size: int = 14

    def __init__(self) -> None:
        self.on = not g(15.0, True)
'''
EXPECTED = """
8 constant 3 4
14 default 2 3
17 comparison is not is
17 boolean and or
17 comparison < <=
18 deleted statement raise InputError(f"{x + 8} is less than 9" % (10,)) pass
20 deleted statement x += 12 pass
20 arithmetic += -=
20 constant 12 13
21 deleted statement g(x, -y) pass
21 swapped arguments x, -y -y, x
21 arithmetic -y (y)
22 return value x None
28 constant 14 15
31 deleted statement self.on = not g(15.0, True) pass
31 boolean not g(15.0, True) (g(15.0, True))
31 swapped arguments 15.0, True True, 15.0
31 constant 15.0 30.0
31 constant True False
"""


def test_what_the_mutants_of_an_example_are() -> None:
    """Docstrings, annotations, overloads, assertions and messages have none."""
    found, messages = mutants("example.py", EXAMPLE.encode())
    lines = [f"{m.line} {m.kind} {m.before} {m.after}" for m in found]
    assert sorted(lines) == sorted(EXPECTED.strip().splitlines())
    assert messages == 6  # x + 8 and 8, 10, the warning, x + 11 and 11
    names = {m.line: m.names for m in found}
    assert (names[8], names[14], names[31]) == (("LIMIT",), ("f",), ("C", "__init__"))
    lines_of = {m.line: m.lines for m in found}
    assert lines_of[8] == (17,)  # what names the constant
    assert lines_of[14] == tuple(range(15, 23))  # the function's body
    assert lines_of[20] == (20,)


@pytest.mark.parametrize("file", ["tokenizer/textbook.py", "torch_impl/functional.py"])
def test_every_mutant_is_another_program(file: str) -> None:
    text, found = (ROOT / file).read_bytes(), of_file(file)[0]
    programs = {ast.dump(ast.parse(mutant.source(text))) for mutant in found}
    assert len(programs | {ast.dump(ast.parse(text))}) == len(found) + 1


def test_a_sample_is_spread_over_the_packages_and_a_larger_one_contains_it() -> None:
    small, large = (sample([], size, seed=3) for size in (20, 100))
    assert {m.key for m in small} <= {m.key for m in large}
    assert len({m.key for m in large}) == 100
    counts = [
        sum(m.file.startswith(package) for m in large) for package in ("torch_impl", "jax_impl", "tokenizer")
    ]
    assert counts == [25, 25, 20]


@pytest.mark.parametrize(
    ("file", "names", "likely"),
    [
        ("torch_impl/functional.py", ("softmax",), "tests/parity/test_softmax.py"),
        ("jax_impl/attention.py", ("grouped_query_attention",), "tests/parity/test_attention.py"),
        ("lm/run/report.py", ("Thinned",), "tests/lm/run/test_report.py"),
        ("tokenizer/cuts.py", ("_edges",), "tests/tokenizer/test_cuts.py"),
    ],
)
def test_the_likeliest_tests_are_tried_first(file: str, names: tuple[str, ...], likely: str) -> None:
    assert candidates(file, names)[0] == likely


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell limits the processor time")
def test_a_mutant_is_killed_by_a_test_that_executes_it(tmp_path: Path) -> None:
    later = next(m for m in of_file("lm/schedule.py")[0] if (m.names, m.before) == (("learning_rate",), "1"))
    file = "tests/lm/test_schedule.py"
    reach = Reach(tmp_path, [file])
    result = judge(later, reach, seconds=20)
    assert result["outcome"] == "killed"
    reaching, every = reach.tests(later)[file], reach.all_tests(file)
    assert result["by"] in reaching
    assert f"{file}::test_without_warm_up_it_starts_at_the_maximum" in every.keys() - reaching.keys()
    assert all(seconds >= 0 for seconds in every.values())
