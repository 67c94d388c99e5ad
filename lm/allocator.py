"""Settings of the C library's allocator."""

import ctypes
import platform

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Have glibc keep the memory that a training step frees, for the next step to use.

    As it comes, glibc asks the system for each large array and gives it back when it is freed, so that every step
    faults the same gigabytes in again, page by page. Where there is no glibc this does nothing.

    Returns:
        Whether it did something.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
