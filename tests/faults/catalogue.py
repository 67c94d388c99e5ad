"""All faults that the tests must catch. The folders in_... hold them in files named as the code's."""

import importlib
import pkgutil

from tests.faults import in_bench, in_jax, in_lm, in_tokenizer, in_torch
from tests.faults.fault import FAULTS

__all__ = ["FAULTS"]

for package in (in_tokenizer, in_lm, in_torch, in_jax, in_bench):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
