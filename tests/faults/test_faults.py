"""The suite can fail. Here the quickest faults; `make faults` runs all."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.catalogue import FAULTS
from tests.faults.fault import Fault
from tests.faults.run import broken, turns_red

QUICK = {
    "clipping acts at the limit": "tests/parity/test_clip_gradients.py::test_exactly_at_the_limit_nothing_changes",
    "a token does not see itself": "tests/parity/test_attention.py::test_causal_mask",
}


def test_there_are_at_least_forty() -> None:
    assert len(FAULTS) >= 40
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_fault_finds_its_place(fault: Fault) -> None:
    compile(broken(fault), fault.file, "exec")


def test_quick_faults_are_caught() -> None:
    faults = {fault.name: fault for fault in FAULTS}
    with ThreadPoolExecutor(2) as pool:
        caught = pool.map(lambda name: turns_red([QUICK[name]], faults[name]), QUICK)
    assert dict(zip(QUICK, caught, strict=True)) == dict.fromkeys(QUICK, True)
