"""The hardware, versions and settings that measured times depend on."""

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from lm.machine import processor_facts

FLAGS = (
    *("OMP_", "GOMP_", "MKL_", "KMP_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "NPROC"),
    *("XLA_", "JAX_", "TORCH", "PYTORCH_", "CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "CXX"),
)


def describe(packages: Iterable[str]) -> dict[str, str | int | None]:
    """Return the processor, the system, and the versions of Python and of these packages (None: not installed)."""
    facts = processor_facts()
    processor = facts.get("model name", platform.processor())
    if "cpu family" in facts:  # in a virtual machine the name alone may not say which model it is
        processor += f" (family {facts['cpu family']}, model {facts['model']})"
    return {
        "processor": processor,
        "processors": os.cpu_count(),
        "system": platform.platform(),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        **{package: _version(package) for package in packages},
    }


def flags() -> dict[str, str]:
    """Return the environment variables that the frameworks and the allocator read."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(FLAGS)}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
