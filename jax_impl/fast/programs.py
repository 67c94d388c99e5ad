"""Compiler options, and compiled programs that later commands find again."""

import os
import warnings
from typing import Any

import jax

from jax_impl.fast import switch
from lm.programs import program_folder

PROGRAMS_KEPT = {
    "jax_compilation_cache_max_size": 100_000_000,  # of a folder; the least recently used program is removed
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
"""JAX's settings, unless the environment gives others. By default JAX keeps only slow compilations, and for ever."""


def training_options(device: str) -> dict[str, Any]:
    """Return the compiler options of the training step.

    By default XLA on a CPU removes the optimization barriers. It then finds that the backward pass computes again what
    the forward pass has computed, and keeps all activations after all. tests/parity/test_remat.py measures the compiled
    step's memory.
    """
    wanted = switch.is_on() and device == "cpu"
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if wanted else {}


def decoding_options() -> dict[str, Any]:
    """Return the compiler options of a decode step: use whole AVX-512 registers. By default XLA uses half of each.

    Then the products of one row read the weights faster (docs/benchmarks.md).
    """
    return {"xla_cpu_prefer_vector_width": 512} if switch.is_on() else {}


def keep_programs() -> None:
    """Have JAX keep compiled programs in JAX_COMPILATION_CACHE_DIR, by default in the user's cache directory.

    JAX keeps none if JAX_ENABLE_COMPILATION_CACHE is "false", which --no-compile-cache sets. The switch of the fast
    forms does not matter here: a kept program gives the same bits as a program that is compiled again.
    """
    if os.environ.get("JAX_ENABLE_COMPILATION_CACHE") == "false":
        # JAX may have been imported before the variable was set.
        jax.config.update("jax_enable_compilation_cache", False)
        return
    for name, value in PROGRAMS_KEPT.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    bounded = os.environ.get("JAX_COMPILATION_CACHE_MAX_SIZE") != "-1"
    folder = program_folder(os.environ.get("JAX_COMPILATION_CACHE_DIR") or None, bounded)
    jax.config.update("jax_compilation_cache_dir", folder)
    # A program that cannot be read is compiled again.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
