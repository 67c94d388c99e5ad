"""The catalogue of known mistakes, gathered from this folder's modules.

Each mistake is a variant of a function of `parity.oracle`. With `oracle.replaced(mistake.replaces, mistake.variant)`
everything that calls this function computes with the mistake: RoPE by halves explains a wrong `rope`, wrong heads, a
wrong block and a wrong model.
"""

import importlib
import pkgutil

from parity.mistakes.mistake import REGISTRY, Mistake, detach, mistake

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

MISTAKES: tuple[Mistake, ...] = tuple(REGISTRY)

__all__ = ["MISTAKES", "Mistake", "detach", "mistake"]
