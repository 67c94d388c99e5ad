"""usage: python -m tests.faults [WORD ...]

Break the backends on purpose, one fault at a time, in copies of the tree. A test must fail for each fault.

  WORD     run only the faults whose names contain one of these words (default: all faults)
  --list   print the chosen faults and their tests, and run nothing
  --help   print this help

First the tests run without a fault. Then each fault is "caught" or has "SURVIVED". The exit code is 1 if one survived.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tests.faults.catalogue import FAULTS
from tests.faults.fault import Fault
from tests.faults.run import failed_test

JOBS = 2


def main(arguments: list[str]) -> int:
    """Run the faults, two at a time, and return the exit code."""
    words = [word for word in arguments if not word.startswith("-")]
    flags = [word for word in arguments if word not in words]
    if {"-h", "--help"} & {*flags}:
        print(__doc__, end="")
        return 0
    for flag in flags:
        if flag != "--list":
            return _refuse(f"there is no flag {flag}; python -m tests.faults --help has all")
    for word in words:
        if not any(word in name for name in FAULTS):
            return _refuse(f"no fault's name contains '{word}'; python -m tests.faults --list has all")
    chosen = [fault for fault in FAULTS.values() if not words or any(word in fault.name for word in words)]
    if flags:
        for fault in chosen:
            print(f"{fault.target:50}  {fault.name}: {' '.join(fault.tests)}")
        return 0
    return _run(chosen)


def _refuse(error: str) -> int:
    print(f"tests.faults: {error}", file=sys.stderr)
    return 2


def _run(chosen: list[Fault]) -> int:
    start = time.perf_counter()
    if line := failed_test(sorted({test for fault in chosen for test in fault.tests})):
        return _refuse(f"mend this test first, which fails without a fault: {line}")
    caught = []
    with ThreadPoolExecutor(JOBS) as pool:
        for fault, line in zip(
            chosen, pool.map(lambda fault: failed_test(fault.tests, fault), chosen), strict=True
        ):
            caught.append(line is not None)
            print(f"{'caught  ' if line else 'SURVIVED'}  {fault.target:50}  {fault.name}", flush=True)
    print(f"{sum(caught)} of {len(chosen)} faults caught in {time.perf_counter() - start:.0f} s")
    return int(not all(caught))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
