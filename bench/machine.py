"""The hardware, the versions and the settings that numbers depend on."""

import argparse
import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from lm.config import check_threads
from lm.machine import processor_facts
from tokenizer.errors import InputError

FLAGS = ("OMP_", "GOMP_", "MKL_", "KMP_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "NPROC")
FLAGS += ("XLA_", "JAX_", "TORCH", "PYTORCH_", "CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "CXX")


def describe(packages: Iterable[str]) -> dict[str, str | int | None]:
    """Processor, GPU, system, and the versions of Python and of these packages (None: not installed)."""
    facts = processor_facts()
    processor = facts.get("model name", platform.processor())
    if "cpu family" in facts:  # the name of a virtual machine's processor may hide which one it is
        processor += f" (family {facts['cpu family']}, model {facts['model']})"
    return {
        "processor": processor,
        "processors": os.cpu_count(),
        "system": platform.platform(),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        **{package: _version(package) for package in packages},
    }


def thread_count(text: str) -> int:
    """A number of threads from a command line.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        return check_threads(int(text))
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def flags() -> dict[str, str]:
    """What the environment says to the frameworks and to the allocator."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(FLAGS)}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
