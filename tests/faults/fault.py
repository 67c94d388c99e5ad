"""A fault replaces a function, a method or a constant of the project with a broken one."""

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CellType
from typing import Any
from unittest import mock

from tests.source import ROOT

P = "tests/parity/test_"
SOFTMAX, SILU, LOSS, CLIP = f"{P}softmax.py", f"{P}silu.py", f"{P}cross_entropy.py", f"{P}clip_gradients.py"
LINEAR, EMBEDDING, NORM, SWIGLU = (f"{P}{name}.py" for name in ("linear", "embedding", "rmsnorm", "swiglu"))
ROPE, ATTENTION, HEADS = f"{P}rope.py", f"{P}attention.py", f"{P}multihead_self_attention.py"
BLOCK, MODEL, OPTIMIZER = f"{P}transformer_block.py", f"{P}transformer_lm.py", f"{P}optimizer.py"
SCHEDULE, STEP, RUN = f"{P}schedule.py", f"{P}train_step.py", f"{P}training_run.py"
MUON, ORACLE_RUN = f"{P}muon.py", f"{RUN}::test_the_first_steps_are_the_oracles"
LOOP, AVERAGE = "tests/lm/run/test_train.py", "tests/lm/run/test_average.py"
NOT_FINITE = f"{LOOP}::test_a_step_that_is_not_finite_changes_nothing"
MASKED = f"{LOOP}::test_a_masked_position_counts_for_nothing"
GELU, LAYERNORM, FEED_FORWARD = (f"{P}{name}.py" for name in ("gelu", "layernorm", "feed_forward"))
FAMILY, DROPOUT, REMAT, FUSED = (f"{P}{name}.py" for name in ("family", "dropout", "remat", "fused"))
DATA, BITS = "tests/lm/data/test_windows.py", f"{P}same_bits.py"
ENCODER, PREFIXED = f"{P}encoder.py", f"{P}encoder_decoder.py"
BLOCKS, JAX_BLOCKS = f"{P}blocks.py", f"{P}jax_blocks.py"
PAIRS, MASKING = "tests/lm/data/test_pairs.py", "tests/lm/data/test_masking.py"
ON_GPU = "tests/test_gpu_torch.py"
MESH = "tests/lm/test_mesh.py"
WINDOWS, SOFTCAP, CONVENTIONS = (f"{P}{name}.py" for name in ("windows", "softcap", "conventions"))
CACHED, MATRIX = f"{FAMILY}::test_cached_logits_are_those_of_the_whole", f"{FAMILY}::test_parity"
DOCUMENTS, STARTS = f"{P}documents.py", "tests/lm/data/test_documents.py"

Replace = Callable[[Any], Any]
"""From the original to the broken one. The original stays as it is."""


@dataclass(frozen=True)
class Fault:
    """One thing to break. At least one of the tests must then fail."""

    name: str
    target: str
    """Dotted name of what is replaced, such as "torch_impl.layers.Embedding.forward"."""
    tests: tuple[str, ...]
    replace: Replace

    @property
    def catalogue(self) -> str:
        """The module of the catalogue that holds this fault."""
        return self.replace.__module__

    @property
    def module(self) -> str:
        """The module that holds the target: the longest part of the target's name that is a module."""
        return ".".join(self._file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")

    @property
    def file(self) -> str:
        """The path of the target's module in the tree."""
        return self._file.relative_to(ROOT).as_posix()

    @property
    def _file(self) -> Path:
        parts = self.target.split(".")
        for n in range(len(parts) - 1, 0, -1):
            path = ROOT.joinpath(*parts[:n])
            for file in (path.with_suffix(".py"), path / "__init__.py"):
                if file.exists():
                    return file
        raise LookupError(f"'{self.name}': no part of {self.target} is a module of the project")

    def _owner(self) -> tuple[Any, str]:
        """Return what has the target as an attribute, and the attribute's name."""
        *owners, attribute = self.target.removeprefix(f"{self.module}.").split(".")
        return functools.reduce(getattr, owners, sys.modules[self.module]), attribute

    def find(self) -> Any:
        """Return the target, whose module has been imported. If the target has a faster form, return its formula."""
        owner, attribute = self._owner()
        original = inspect.getattr_static(owner, attribute)
        if isinstance(original, staticmethod):
            return original.__func__
        cell = _formula(original)
        return cell.cell_contents if cell else original

    def install(self) -> None:
        """Replace the target."""
        owner, attribute = self._owner()
        original, broken = inspect.getattr_static(owner, attribute), self.replace(self.find())
        if isinstance(original, staticmethod):
            setattr(owner, attribute, staticmethod(broken))
        elif cell := _formula(original):
            cell.cell_contents = broken
        else:
            setattr(owner, attribute, broken)


def _formula(function: Any) -> CellType | None:
    """Return the variable of `fast.path` that holds the formula: a fault in a formula leaves its fast form alone.

    The checker of shapes wraps functions, too, so the variable may belong to a function inside.
    """
    while inspect.isfunction(function):
        variables = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        if {"form", "formula"} <= variables.keys():
            return variables["formula"]
        function = getattr(function, "__wrapped__", None)
    return None


FAULTS: dict[str, Fault] = {}
"""All faults of the modules of the catalogue that have been imported."""


def fault(name: str, target: str, *tests: str) -> Callable[[Replace], Replace]:
    """Decorate a function that takes the target and returns a broken one."""

    def register(replace: Replace) -> Replace:
        assert name not in FAULTS, name
        FAULTS[name] = Fault(name, target, tests, replace)
        return replace

    return register


def install(catalogue: str, name: str) -> None:
    """Install a fault of this module of the catalogue. The runner adds this call to the end of the target's module.

    The target's module and those that import it are not imported completely then. So a module of the catalogue may
    import the framework, NumPy and the backend's `dtypes` at its top, and all else of the project inside functions.
    """
    importlib.import_module(catalogue)
    FAULTS[name].install()


def inside(target: str, replace: Replace, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is `function`, except that the name `target` is replaced while it runs."""

    def broken(*args: Any, **kwargs: Any) -> Any:
        module, _, attribute = target.rpartition(".")
        original = getattr(importlib.import_module(module), attribute)
        with mock.patch(target, replace(original)):
            return function(*args, **kwargs)

    return broken
