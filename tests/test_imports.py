"""Imports go one way: tokenizer <- lm <- torch_impl, jax_impl <- parity; and start-up stays light."""

import ast
import subprocess
import sys

import pytest

from tests.source import ROOT, modules

# What each package may import of the others, and the libraries that it alone may load.
MAY_IMPORT = {
    "tokenizer": set[str](),
    "lm": {"tokenizer"},
    "torch_impl": {"tokenizer", "lm"},
    "jax_impl": {"tokenizer", "lm"},
    "parity": {"tokenizer", "lm", "torch_impl", "jax_impl"},
}
FRAMEWORKS = {"torch", "jax", "jaxlib"}
MAY_LOAD = {
    "tokenizer": set[str](),
    "lm": set[str](),
    "torch_impl": {"torch"},
    "jax_impl": {"jax", "jaxlib"},
    "parity": FRAMEWORKS,
}
OURS = {*MAY_IMPORT, "tests", "bench"}


def imports(tree: ast.Module) -> set[str]:
    """Top-level packages that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").partition(".")[0])
    return names


def loaded_after(code: str) -> set[str]:
    """Top-level packages in sys.modules after a fresh interpreter has run some code, or exited with 0."""
    report = "\nimport sys; print('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    program = f"try:\n    {code}\nexcept SystemExit as end:\n    assert not end.code, end.code{report}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_no_module_imports_against_the_direction(package: str) -> None:
    forbidden = (OURS | FRAMEWORKS) - MAY_IMPORT[package] - MAY_LOAD[package] - {package}
    against = {name: imports(tree) & forbidden for name, tree in modules(package).items()}
    # These commands import parity when they run.
    for command in ("lm.cli.prove", "lm.cli.check", "lm.experiment.toy"):
        against[command] = against.get(command, set()) - {"parity"}
    assert {name: bad for name, bad in against.items() if bad} == {}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_fresh_process_loads_nothing_against_the_direction(package: str) -> None:
    names = [name for name in modules(package) if not name.endswith("__main__")]
    loaded = loaded_after(f"import {', '.join(names)}")
    assert package in loaded
    assert loaded & (OURS | FRAMEWORKS) <= {package} | MAY_IMPORT[package] | MAY_LOAD[package]


def test_only_those_who_load_a_backend_import_by_name() -> None:
    by_name = {
        module
        for module, tree in modules("lm").items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.Attribute)
        and ast.unparse(node) in ("import_module", "importlib.import_module", "__import__")
    }
    assert by_name == {"lm.backend"}


def test_the_command_starts_light() -> None:
    code = "import sys; sys.argv = ['lm', '--help']; import lm.cli; lm.cli.main()"
    assert not loaded_after(code) & (FRAMEWORKS | {"torch_impl", "jax_impl", "matplotlib", "scipy"})


def test_the_check_sees_imports_inside_functions() -> None:
    assert imports(ast.parse("def f():\n    import torch.nn\n    from jax import nn")) == {"torch", "jax"}
