"""What is read from the machine, and the allocator's settings."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from lm import machine
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
    """40 MB are 9,766 pages. The settings stay, so this runs in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 100


def test_the_smallest_limit_of_the_containers_around_a_process_counts(tmp_path: Path) -> None:
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    (tmp_path / "outer" / "memory.max").write_text("5000\n")
    (tmp_path / "outer" / "inner" / "memory.max").write_text("max\n")
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9000\n")
    process = tmp_path / "cgroup"
    process.write_text("4:cpu:/other\n0::/outer/inner\n")
    assert sorted(machine._container_limits(tmp_path, process)) == [5000, 9000]
    assert machine._container_limits(tmp_path / "none", tmp_path / "none") == []
    assert 1 << 28 < machine.total_memory() < 1 << 50


def test_processors_of_other_instructions_have_other_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = set()
    for flags in ("sse2 avx2", "sse2"):
        lines = ["processor\t: 0", "model name\t: Some CPU", f"flags\t\t: {flags}"]
        monkeypatch.setattr(machine, "_processor_lines", lambda lines=lines: lines)
        assert machine.processor_name() == "Some CPU"
        assert machine.processor_facts()["flags"] == flags
        ids |= {machine.processor_id()}
        lines[0] = "processor\t: 1"
        assert machine.processor_id() in ids
    assert len(ids) == 2
    monkeypatch.setattr(machine, "_processor_lines", list)  # not Linux
    assert machine.processor_name()
    assert machine.processor_facts() == {}
