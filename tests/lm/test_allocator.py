"""The allocator's settings: memory that was freed is there again without a page fault."""

import platform
import subprocess
import sys

import pytest

from tests.source import ROOT

PROGRAM = """
import resource
import numpy as np
from lm.machine import keep_freed_memory
assert keep_freed_memory()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(40_000_000, np.uint8)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is nothing to set without glibc")
def test_freed_memory_is_not_faulted_in_again() -> None:
    """40 MB are 9,766 pages; in a process of its own, since the settings stay."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 100
