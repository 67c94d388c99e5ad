"""`make faults`: run each fault and print "caught" or "SURVIVED". Arguments select the faults whose names have them."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tests.faults.catalogue import FAULTS
from tests.faults.fault import Fault
from tests.faults.run import turns_red

JOBS = 2


def main(words: list[str]) -> int:
    """Run the faults, two at a time, and return 1 if one survived."""
    chosen = [fault for fault in FAULTS.values() if not words or any(word in fault.name for word in words)]
    start = time.perf_counter()
    with ThreadPoolExecutor(JOBS) as pool:
        files = sorted({test for fault in chosen for test in fault.tests})
        if turns_red(files):
            print("tests fail without any fault: mend them first")
            return 1
        caught = []
        for fault, failed in zip(chosen, pool.map(_caught, chosen), strict=True):
            caught.append(failed)
            print(f"{'caught  ' if failed else 'SURVIVED'}  {fault.target:50}  {fault.name}", flush=True)
    print(f"{sum(caught)} of {len(chosen)} faults caught in {time.perf_counter() - start:.0f} s")
    return int(not all(caught))


def _caught(fault: Fault) -> bool:
    return turns_red(fault.tests, fault)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
