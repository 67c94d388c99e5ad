"""Settings of the C library's allocator."""

import ctypes
import platform

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Have glibc keep the memory that a training step frees for the next step.

    As it comes, glibc asks the system for each large array anew and gives it back when it is freed: every step faults
    the same gigabyte in again, page by page, a seventh of its time. Here all threads share one heap, from which
    nothing is given back. To be called before a framework is imported. Without glibc it does nothing.

    Returns:
        Whether it did something.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_ARENA_MAX, 1)):
        libc.mallopt(parameter, value)
    return True
