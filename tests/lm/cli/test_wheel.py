"""Contents of a wheel: `lm demo` runs without a checkout."""

import tomllib
from fnmatch import fnmatch

from tests.source import ROOT


def test_a_wheel_holds_every_data_file_of_its_packages() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packaged = setuptools["packages"]["find"]["include"]
    folders = ("tokenizer", "lm", "torch_impl", "jax_impl", "parity", "configs")
    listed = {
        path
        for name, patterns in setuptools["package-data"].items()
        for package in (folders if name == "*" else [name])
        if any(fnmatch(package, pattern) for pattern in packaged)
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    present = {path for folder in folders for path in (ROOT / folder).rglob("*.*") if path.is_file()}
    assert {path for path in present if path.suffix not in (".py", ".pyc")} == listed
    assert {path.name for path in listed} > {"demo.toml", "experiment.toml"}
