"""torch_impl and jax_impl read side by side: the same definitions in the same order, and formulas without speed."""

import ast
from collections.abc import Iterator

import pytest

from tests.source import ROOT

FILES = (
    "dtypes.py",
    "functional.py",
    "layers.py",
    "masks.py",
    "attention.py",
    "model.py",
    "sequences.py",
    "optimizer.py",
    "sharding.py",
    "state.py",
    "generation.py",
    "backend.py",
)
PACKAGES = ("torch_impl", "jax_impl")

# Definitions that only one package has, and why. At most seven each.
ONE_SIDED: dict[str, dict[str, str]] = {
    "torch_impl": {
        "model.py: recomputed": "JAX has jax.checkpoint; torch must hand the weights to the recomputation",
        "model.py: Stack": "torch's weights live in modules; JAX's stack is the functions `embed` and `hidden_states`",
        "model.py: tables": "torch keeps tables of positions beside the weights; JAX traces them as constants",
        "sharding.py: shard": "fully_shard wraps modules; XLA partitions a program by its arguments' shardings",
        "sharding.py: on_whole": "torch gathers a matrix for Muon; XLA gathers what a program needs",
        "sharding.py: take_gradients": "torch sums the loss and the norm over processes itself; XLA adds these sums",
        "sharding.py: _index": "torch knows which rows of a weight a process holds; a JAX array knows its own slices",
    },
    "jax_impl": {
        "model.py: make_attention": "torch sets a block's attention up once, in the block's constructor",
        "optimizer.py: _one_minus_power": "torch corrects the bias in Python's float64, JAX in the weights' type",
        "sharding.py: shardings": "XLA is told where each array lies; fully_shard decides it in torch",
        "sharding.py: params_shardings": "`shardings` of all weights, as a tree like the weights",
        "sharding.py: constrain": "a hint to XLA inside a program; torch's modules gather their weights themselves",
        "sharding.py: gather_embeddings": "a hint to XLA inside a program, as for `constrain`",
    },
}
MOST_ONE_SIDED = 7

# torch's optimizer is a class that holds its state; JAX's is a state and a function that makes one.
JAX_NAMES = {f"{name}{part}": name for name in ("adamw", "muon", "sgd") for part in ("state", "init")}
# Methods that the frameworks' base classes ask for.
OF_A_BASE_CLASS = {"forward", "step"}


def is_public(method: str) -> bool:
    """Whether a method counts as a definition."""
    return not method.startswith("_") and method not in OF_A_BASE_CLASS


def imports_of_package(tree: ast.Module) -> set[str]:
    """Return the names that a file imports from its own package."""
    return {
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PACKAGES
        for alias in node.names
    }


def definitions(tree: ast.Module) -> Iterator[str]:
    """Yield the names of functions, classes and public constants; public methods stand before their class."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and is_public(method.name):
                    yield method.name
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id.isupper() and not target.id.startswith("_"):
                yield target.id


def normalised(name: str) -> str:
    """Return the name in lower case without underscores, as in the other package."""
    name = name.replace("_", "").lower()
    return JAX_NAMES.get(name, name)


def tree(package: str, file: str) -> ast.Module:
    return ast.parse((ROOT / package / file).read_text(encoding="utf-8"))


def compare(file: str, of_torch: ast.Module, of_jax: ast.Module) -> tuple[dict[str, set[str]], bool]:
    """Return the definitions that only one package has, and whether the others come in the same order.

    A definition may be an import from elsewhere in the other package.
    """
    trees = dict(zip(PACKAGES, (of_torch, of_jax), strict=True))
    names = {package: {normalised(n): n for n in definitions(tree)} for package, tree in trees.items()}
    has = {p: {*names[p], *map(normalised, imports_of_package(trees[p]))} for p in PACKAGES}
    alone, orders = {}, []
    for package, other in (PACKAGES, PACKAGES[::-1]):
        alone[package] = {f"{file}: {n}" for form, n in names[package].items() if form not in has[other]}
        orders.append([form for form in names[package] if form in names[other]])
    return alone, orders[0] == orders[1]


@pytest.mark.parametrize("file", FILES)
def test_the_two_files_hold_the_same_definitions_in_the_same_order(file: str) -> None:
    alone, in_order = compare(file, *(tree(package, file) for package in PACKAGES))
    listed = {p: {name for name in ONE_SIDED[p] if name.startswith(f"{file}:")} for p in PACKAGES}
    assert alone == listed
    assert in_order, {p: list(definitions(tree(p, file))) for p in PACKAGES}


def test_few_definitions_are_one_sided() -> None:
    assert all(len(reasons) <= MOST_ONE_SIDED for reasons in ONE_SIDED.values())


@pytest.mark.parametrize(
    ("other", "alone", "in_order"),
    [
        ("def embed(): ...\nclass RMSNorm: ...", set(), True),
        ("class RMSNorm:\n    def forward(self): ...\n    def embed(self): ...", set(), True),
        ("class RMSNorm: ...\ndef embed(): ...", set(), False),
        ("def embed(): ...\nclass RMSNorm:\n    def fuse(self): ...", {"f: fuse"}, True),
        ("def embed(): ...\nclass RMSNorm: ...\ndef _pad(): ...", {"f: _pad"}, True),
        ("def embed(): ...\nclass RMSNorm: ...\nNORMS = {}", {"f: NORMS"}, True),
    ],
)
def test_the_comparison_sees_what_differs(other: str, alone: set[str], in_order: bool) -> None:
    of_jax = ast.parse("def embed(): ...\ndef rms_norm(): ...")
    found, same_order = compare("f", ast.parse(other), of_jax)
    assert found == {"torch_impl": alone, "jax_impl": set()}
    assert same_order == in_order


FORMULA_FILES = FILES[:7]
"""The files of formulas. The others set a backend up, and so may turn fast forms on and pack or pad arrays."""


def uses_of_speed(tree: ast.Module) -> Iterator[str]:
    """Yield what a formula file may not say: any use of the package `fast` except as a decorator."""
    decorators = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
        if ast.unparse(decorator).startswith("fast.")
        for part in ast.walk(decorator)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom) and (node.module or "") in PACKAGES:
                names.remove("fast") if "fast" in names else None
            whole = [getattr(node, "module", None) or "", *names]
            if any("fast" in name.split(".") for name in whole) or "lm.machine" in whole:
                yield ast.unparse(node)
        elif isinstance(node, ast.Name) and node.id == "fast" and id(node) not in decorators:
            yield f"line {node.lineno}: fast"
        elif isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            if name in HARDWARE:
                yield f"line {node.lineno}: {name}"


HARDWARE = {
    "custom_vjp",
    "optimization_barrier",
    "is_compiling",
    "cpu_count",
    "get_num_threads",
    "platform",
    "Function",
}
"""Names by which a formula would ask for the machine, or write its gradient or its program by hand."""


@pytest.mark.parametrize("file", FORMULA_FILES)
@pytest.mark.parametrize("package", PACKAGES)
def test_a_formula_file_says_nothing_about_speed_except_in_a_decorator(package: str, file: str) -> None:
    assert list(uses_of_speed(tree(package, file))) == []


@pytest.mark.parametrize(
    "code",
    [
        "from jax_impl import fast\nif fast.is_on(): ...",
        "from torch_impl import fast\ndef f():\n    return fast.silu_gate(1, 2)",
        "from torch_impl.fast import silu_gate",
        "import torch_impl.fast.blocks",
        "import jax\n@jax.custom_vjp\ndef f(x): ...",
        "from lm.machine import processor",
        "import torch\nclass F(torch.autograd.Function): ...",
    ],
)
def test_the_check_sees_speed(code: str) -> None:
    assert list(uses_of_speed(ast.parse(code)))


def test_the_check_allows_the_decorator() -> None:
    code = "from jax_impl import fast\n@fast.path(fast.silu_gate)\ndef silu_gate(a, b): ..."
    assert list(uses_of_speed(ast.parse(code))) == []
