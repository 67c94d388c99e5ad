"""What this machine has: processor, memory, and the allocator that hands the memory out."""

import contextlib
import ctypes
import hashlib
import platform
from pathlib import Path

import tokenizer.machine

# Lines of Linux's /proc/cpuinfo that say which instructions a processor has.
_INSTRUCTIONS = (
    "vendor_id",
    "cpu family",
    "model",
    "stepping",
    "flags",
    "CPU implementer",
    "CPU part",
    "Features",
)
# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def processor_facts() -> dict[str, str]:
    """Return what Linux says about the first processor, such as its "model name"; empty on other systems."""
    return {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in _processor_lines())
    }


def processor_name() -> str:
    """Return the processor's name for readers."""
    return processor_facts().get("model name") or platform.processor() or platform.machine()


def processor_id() -> str:
    """Return a hash of the processor's instruction set: compiled programs and measured times depend on it."""
    found = [platform.machine(), platform.processor()]
    found += [line for line in _processor_lines() if line.startswith(_INSTRUCTIONS)]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]


def _processor_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_bytes().decode().partition("\n\n")[0].splitlines()
    except OSError:
        return []


def total_memory() -> int:
    """Return the bytes of this machine's main memory, or of the part that its container may use."""
    return min([tokenizer.machine.total_memory(), *_container_limits()])


def _container_limits(
    root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")
) -> list[int]:
    """Return the memory limits of this process's control group and its parents (Linux, versions 2 and 1)."""
    folders = {root, root / "memory"}
    with contextlib.suppress(OSError):
        for line in process.read_bytes().decode().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                group = root / controllers / path.lstrip("/")
                folders |= {group, *(parent for parent in group.parents if parent.is_relative_to(root))}
    limits = []
    for folder in folders:
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # "max" is not a number
                limits.append(int((folder / name).read_bytes()))
    return limits


def keep_freed_memory() -> bool:
    """Make glibc keep the memory that a training step frees, for the next step.

    By default, glibc asks the system for each large array and gives it back when the array is freed. Every step then
    faults the same gigabyte in again, page by page, which takes a seventh of its time. With these settings all threads
    share one heap, which gives nothing back. Call this before a framework is imported. Without glibc it does nothing.

    Returns:
        Whether it did something.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_ARENA_MAX, 1)):
        libc.mallopt(parameter, value)
    return True
