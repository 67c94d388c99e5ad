"""The suite can fail. The quickest faults run here; `make faults` runs all."""

import importlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.__main__ import main
from tests.faults.catalogue import FAULTS
from tests.faults.fault import Fault
from tests.faults.run import crash, failed_test

QUICK = {
    "the decay begins a step early": "tests/lm/test_schedule.py",
    "a token does not see itself": "tests/parity/test_attention.py::test_causal_mask",
}


def test_no_fault_is_lost() -> None:
    assert len(FAULTS) == 271


@pytest.mark.parametrize("fault", FAULTS.values(), ids=lambda fault: fault.name)
def test_every_fault_finds_its_place(fault: Fault) -> None:
    importlib.import_module(fault.module)
    original = fault.find()
    assert fault.replace(original) is not original
    assert fault.find() is original


def test_quick_faults_are_caught() -> None:
    with ThreadPoolExecutor(2) as pool:
        failed = pool.map(lambda name: failed_test([QUICK[name]], FAULTS[name]), QUICK)
    for test, line in zip(QUICK.values(), failed, strict=True):
        assert line is not None
        assert line.startswith(f"FAILED {test}")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            ["no such fault"],
            "no fault's name contains 'no such fault'; python -m tests.faults --list has all",
        ),
        (["--lists"], "there is no flag --lists; python -m tests.faults --help has all"),
    ],
)
def test_what_the_command_does_not_know_is_one_line(
    words: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr() == ("", f"tests.faults: {error}\n")


def test_a_replacement_that_crashes_is_not_caught() -> None:
    """A last frame in a fault is a crash of the replacement, and so is a call that it cannot take.

    A fault further up called what then noticed it.
    """
    frame = '  File "/tmp/copy/{}.py", line 7, in broken\n    return x.size[0] + 1\n           ~~~~~~^^^\n'
    ours, theirs = frame.format("tests/faults/in_torch/layers"), frame.format("torch_impl/layers")
    assert crash(f"{theirs}{ours}TypeError: not subscriptable\n")
    assert crash(repr(f"{theirs}{ours}TypeError: not subscriptable\n"))
    assert crash(f"{ours}{theirs}TypeError: not subscriptable\n") is None
    assert crash(f"{theirs}TypeError: _.<locals>.broken() got an unexpected keyword argument 'axis'\n")
