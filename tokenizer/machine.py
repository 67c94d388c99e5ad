"""Facts about the machine and this process, on every platform."""

import os
import sys
from pathlib import Path


def num_processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def total_memory() -> int:
    """Return the bytes of the machine's main memory."""
    try:
        # On Linux this works without psutil.
        return 1024 * int(Path("/proc/meminfo").read_bytes().partition(b"MemTotal:")[2].split()[0])
    except (OSError, IndexError):
        import psutil

        return int(psutil.virtual_memory().total)


def peak_memory() -> int:
    """Return the most bytes of main memory that this process has held at once.

    If the system does not record the peak, this is what the process holds now.
    """
    try:
        # Linux. What getrusage says includes the memory of the process that started this one.
        status = Path("/proc/self/status").read_bytes()
        return 1024 * int(status.partition(b"VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most  # others count in KiB
