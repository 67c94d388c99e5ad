"""Settings of the C library's allocator."""

import ctypes
import os
import platform

# Of malloc.h and mman.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_MADV_HUGEPAGE = 14
_HUGE_PAGE = 2 << 20


def keep_freed_memory() -> bool:
    """Have glibc keep the memory that a training step frees for the next step, in pages of 2 MiB.

    As it comes, glibc asks the system for each large array anew and gives it back when it is freed: every step faults
    the same gigabyte in again, page by page, a seventh of its time. Here all threads share one heap, from which
    nothing is given back, and the system is asked to back it by huge pages. To be called before a framework is
    imported. Without glibc it does nothing.

    Returns:
        Whether it did something.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_ARENA_MAX, 1)):
        libc.mallopt(parameter, value)
    # The heap grows by half of the main memory, none of which is taken before it is written to.
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    start = libc.malloc(size)
    if start:
        first = start + -start % _HUGE_PAGE
        libc.madvise(first, (start + size - first) // _HUGE_PAGE * _HUGE_PAGE, _MADV_HUGEPAGE)
        libc.free(start)
    return True
