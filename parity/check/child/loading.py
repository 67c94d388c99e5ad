"""Import the file under check as its own tests would: with its package, its project, and without what is missing."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import re
import sys
import types
from pathlib import Path
from typing import Any

NOT_REPLACED = ("torch", "jax", "jaxlib", "numpy")


def load(target: str) -> types.ModuleType:
    """Import a file or a module.

    A package that is missing, such as a logger or a profiler, is replaced by a stand-in. It accepts everything during
    the import, and fails when a function under check calls it. So the functions that do not need it can be checked.
    """
    file = Path(target).resolve() if target.endswith(".py") or os.path.isfile(target) else None
    roots = _search_path(file)
    sys.path[:0] = [root for root in roots if root not in sys.path]
    sys.meta_path.append(_Metadata(roots))
    missing: list[str] = []
    while True:
        try:
            module = _import_file(file) if file else importlib.import_module(target)
            _StandIn.accepts = False
            return module
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if not package or package in (*NOT_REPLACED, *missing) or _is_own(package, target, roots):
                raise
            missing.append(package)
            sys.meta_path.append(_StandIns(package))
            importlib.invalidate_caches()


def _search_path(file: Path | None) -> list[str]:
    """Return the folders to import from: the file's package root, the project's root, the current folder, and src."""
    folders = []
    if file:
        folder = file.parent
        while (folder / "__init__.py").exists():
            folder = folder.parent
        folders.append(folder)
        folders += [p for p in file.parents if any((p / m).exists() for m in ("pyproject.toml", ".git"))][:1]
    folders.append(Path.cwd())
    folders += [folder / "src" for folder in folders if (folder / "src").is_dir()]
    return list(dict.fromkeys(str(folder) for folder in folders))


def _is_own(package: str, target: str, roots: list[str]) -> bool:
    return package == target.partition(".")[0] or any(
        os.path.exists(os.path.join(root, package + ending)) for root in roots for ending in ("", ".py")
    )


def _import_file(file: Path) -> types.ModuleType:
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist")
    folder, parts = file.parent, [file.stem]
    while (folder / "__init__.py").exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    if len(parts) > 1:
        return importlib.import_module(".".join(parts).replace(".__init__", ""))
    try:
        return _execute(file.stem, file)
    except ImportError as error:
        if "relative import" not in str(error):
            raise
        # The folder has no __init__.py, but its files import each other as a package's do.
        sys.path.insert(0, str(file.parent.parent))
        return importlib.import_module(f"{file.parent.name}.{file.stem}")


def _execute(name: str, file: Path) -> types.ModuleType:
    # A file may be called as a module that is loaded already, such as types.py.
    name = name if name not in sys.modules else f"_checked_{name}"
    spec = importlib.util.spec_from_file_location(name, file, loader=None)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class _Metadata(importlib.metadata.DistributionFinder):
    """Give the project's packages a version, for those that ask for their own but are not installed."""

    def __init__(self, roots: list[str]) -> None:
        self.roots = roots

    def find_spec(self, *args: Any) -> None:
        """Find no module."""

    def find_distributions(self, context: Any = None) -> Any:
        """Find the distribution of a folder of the project, or of the project itself."""
        name = getattr(context, "name", None)
        if name and any(_normal(name) in _names(root) for root in self.roots):
            return iter([_Unpackaged(name)])
        return iter([])


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _names(root: str) -> set[str]:
    names = {_normal(entry.name) for entry in os.scandir(root) if entry.is_dir()}
    file = Path(root, "pyproject.toml")
    if file.exists():
        names |= {_normal(n) for n in re.findall(r'(?m)^name\s*=\s*["\'](.+?)["\']', file.read_text("utf-8"))}
    return names


class _Unpackaged(importlib.metadata.Distribution):
    def __init__(self, name: str) -> None:
        self.name_ = name

    def read_text(self, filename: str) -> str | None:
        """Return the metadata."""
        return (
            f"Metadata-Version: 2.1\nName: {self.name_}\nVersion: 0.0.0\n" if filename == "METADATA" else None
        )

    def locate_file(self, path: Any) -> Any:
        """Return the path."""
        return path


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Make modules for a package that is not installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """Find the package and its modules."""
        if fullname.partition(".")[0] == self.package:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        """Make a module whose attributes are all stand-ins."""
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: _stand_in(self.package, name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing."""


def _stand_in(package: str, name: str) -> _StandIn:
    if name.startswith("__"):
        raise AttributeError(name)
    return _StandIn(package)


class _StandIn:
    """A name of a missing package."""

    accepts = True
    """Whether a call is accepted: while the file is being imported."""

    def __init__(self, package: str) -> None:
        self._package = package

    def __getattr__(self, name: str) -> _StandIn:
        return _stand_in(self._package, name)

    def __getitem__(self, item: Any) -> _StandIn:
        return self

    def __or__(self, other: Any) -> Any:
        return other

    __ror__ = __or__

    def __mro_entries__(self, bases: Any) -> tuple[type, ...]:
        return (object,)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and isinstance(args[0], (type, types.FunctionType)):
            return args[0]  # it decorates
        if self.accepts:
            return self
        raise ModuleNotFoundError(f"No module named {self._package!r}", name=self._package)
