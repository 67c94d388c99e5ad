"""torch_impl and jax_impl are written from scratch: their syntax trees name nothing that would do the work.

The checker resolves every dotted name to what was imported: aliases, re-exports between our own modules,
`getattr` and strings that name a module. What it cannot resolve, a name computed at run time, it refuses.
"""

import ast
import re
import sys
from collections.abc import Iterator
from types import BuiltinFunctionType

import pytest
import torch

from tests.source import modules

# What the standard library cannot give.
ALLOWED_PACKAGES = {
    "torch_impl": {"numpy", "jaxtyping", "torch", "tokenizer", "lm", "torch_impl"},
    "jax_impl": {"numpy", "jaxtyping", "jax", "jaxlib", "tokenizer", "lm", "jax_impl"},
}

# Under these modules all names are forbidden but these.
ALLOWED_NAMES = {
    "torch.nn": {
        "Parameter",
        "Module",
        "ModuleList",
        "ModuleDict",
        "Sequential",
        "ParameterList",
        "ParameterDict",
        "init",
        "init.trunc_normal_",
    },
    "torch.optim": {"Optimizer"},
}

FORBIDDEN_MODULES = {
    "torch.ops",
    "torch.special",
    "torch.ao",
    "jax.nn",
    "jax.scipy",
    "jax.example_libraries",
    "jax.experimental.optimizers",
    "jax.experimental.stax",
}

# As a function, or as a method of whatever object.
FORBIDDEN_METHODS = {"softmax", "log_softmax", "logsumexp"}

# As a function of the framework.
FORBIDDEN_FUNCTIONS = FORBIDDEN_METHODS | {
    "layer_norm",
    "native_layer_norm",
    "rms_norm",
    "batch_norm",
    "group_norm",
    "instance_norm",
    "embedding",
    "embedding_bag",
    "cross_entropy_loss",
    "nll_loss",
    "scaled_dot_product_attention",
    "dropout",
    "native_dropout",
}

# The one exception: torch.conv2d is the same function as torch.nn.functional.conv2d. Only a faster form of the product
# calls conv2d, to multiply matrices. The formula, x W^T, stands in torch_impl.functional.
EXCEPTION = ("torch_impl.fast.product", "torch.conv2d")

# They reach any name, whatever it is called.
DYNAMIC_NAMES = {"eval", "exec", "compile", "vars", "globals", "locals", "__import__"}
DYNAMIC_MODULES = {"importlib", "operator", "builtins", "inspect", "ctypes"}
DYNAMIC_ATTRIBUTES = {"__dict__", "__globals__", "__getattr__", "__getattribute__", "modules"}

# To be named only in front of a dot: as values they would pass under another name.
NOT_AS_VALUES = {"torch", "torch.nn", "torch.nn.init", "torch.optim", "jax"}


# Functions of torch.nn.functional that torch has under a shorter name.
_FUNCTIONAL = {
    name
    for name, function in vars(torch.nn.functional).items()
    if isinstance(function, BuiltinFunctionType) and getattr(torch, name, None) is function
}


def imported_names(module: str, tree: ast.Module, is_package: bool) -> dict[str, str]:
    """Local name -> dotted name of what it was imported as, wherever in the file that is done."""
    names: dict[str, str] = {}

    def bind(name: str, target: str) -> None:
        assert names.setdefault(name, target) == target, f"{module}: {name} is imported as two things"

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                bind(alias.asname or top, alias.name if alias.asname else top)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                bind(alias.asname or alias.name, f"{_source(node, module, is_package)}.{alias.name}")
    return names


def _source(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parents = module.split(".")
    base = ".".join(parents[: len(parents) - node.level + is_package])
    return f"{base}.{node.module}" if node.module else base


def violations(trees: dict[str, ast.Module]) -> Iterator[str]:
    """`module:line: name` for every name in a package (module name -> tree) that is against the rules."""
    is_package = {module: any(other.startswith(f"{module}.") for other in trees) for module in trees}
    imports = {module: imported_names(module, tree, is_package[module]) for module, tree in trees.items()}

    def follow(name: str) -> str:
        """Return what a name stands for that one of our own modules has imported itself."""
        parts = name.split(".")
        for i in range(len(parts) - 1, 0, -1):
            owner = imports.get(".".join(parts[:i]), {})
            if parts[i] in owner:
                return follow(".".join([owner[parts[i]], *parts[i + 1 :]]))
        return name

    def resolve(module: str, node: ast.AST) -> str | None:
        """Return the dotted name that an expression stands for; None if its name was not imported."""
        match node:
            case ast.Name(id) if id in imports[module]:
                return follow(imports[module][id])
            case ast.Attribute(value, attr) | ast.Call(
                ast.Name("getattr"), [value, ast.Constant(str(attr)), *_]
            ) if base := resolve(module, value):
                return follow(f"{base}.{attr}")
        return None

    for module, tree in trees.items():
        package = module.partition(".")[0]
        before_a_dot = set()
        docstrings = set()
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(value) | ast.Call(ast.Name("getattr"), [value, *_]):
                    before_a_dot.add(value)
                case ast.Expr(ast.Constant() as value):
                    docstrings.add(value)

        for node in ast.walk(tree):
            name = resolve(module, node)
            bad = []
            if name is not None:
                if _is_forbidden(name, package) or (name in NOT_AS_VALUES and node not in before_a_dot):
                    bad = [name]
            else:
                match node:
                    case ast.Import(names):
                        bad = [a.name for a in names if _is_forbidden(a.name, package)]
                    case ast.ImportFrom(names=names):
                        source = _source(node, module, is_package[module])
                        bad = [follow(f"{source}.{a.name}") for a in names]
                        bad = [name for name in bad if _is_forbidden(name, package) or name.endswith(".*")]
                    case ast.Name(id) if id in DYNAMIC_NAMES:
                        bad = [id]
                    case ast.Attribute(attr=attr) | ast.Call(
                        ast.Name("getattr"), [_, ast.Constant(str(attr)), *_]
                    ):
                        bad = [f".{attr}"] if attr in FORBIDDEN_METHODS | DYNAMIC_ATTRIBUTES else []
                    case ast.Call(ast.Name("getattr")) if not _is_harmless_getattr(node):
                        bad = [ast.unparse(node)]
                    case ast.Constant(str(text)) if node not in docstrings and _is_bad_string(text, package):
                        bad = [repr(text)]
            for name in bad:
                if (module, name) == EXCEPTION:
                    continue
                yield f"{module}:{getattr(node, 'lineno', 0)}: {name}"


def _is_forbidden(name: str, package: str) -> bool:
    """Is a full dotted name against the rules of a package?"""
    top, *rest = name.split(".")
    if top == package:
        return False
    if top not in ALLOWED_PACKAGES[package] | sys.stdlib_module_names or top in DYNAMIC_MODULES:
        return True
    for module, allowed in ALLOWED_NAMES.items():
        if name.startswith(f"{module}."):
            name = name.removeprefix(f"{module}.")
            return name not in allowed and name.partition(".")[0] not in allowed - {"init"}
    if top == "torch" and rest and rest[0] in _FUNCTIONAL:
        return True
    return bool(DYNAMIC_ATTRIBUTES.intersection(rest)) or (
        top in ("torch", "jax", "jaxlib")
        and (
            any(f"{name}.".startswith(f"{module}.") for module in FORBIDDEN_MODULES)
            or not FORBIDDEN_FUNCTIONS.isdisjoint(rest)
            or any(part.startswith("_") and part != "__version__" for part in rest)
        )
    )


def _is_bad_string(text: str, package: str) -> bool:
    """Does it name what may not be imported?"""
    is_name = re.fullmatch(r"(torch|jax|jaxlib)\.[\w.]+", text) is not None
    return is_name and (text in NOT_AS_VALUES or _is_forbidden(text, package))


def _is_harmless_getattr(node: ast.Call) -> bool:
    """Does it look up a dtype, that a config names?"""
    match node.args:
        case [_, ast.Name(name) | ast.Attribute(attr=name) | ast.Call(ast.Name(name)), *_]:
            return name.endswith("dtype")
    return False


@pytest.mark.parametrize("package", ["torch_impl", "jax_impl"])
def test_the_package_is_written_from_scratch(package: str) -> None:
    trees = modules(package)
    assert f"{package}.attention" in trees
    assert list(violations(trees)) == []


BAD = [
    # other names of torch.nn and torch.optim, however imported
    ("torch_impl", "import torch.nn as x\nx.Linear(2, 2)", "torch.nn.Linear"),
    ("torch_impl", "import torch\ntorch.nn.Linear(2, 2)", "torch.nn.Linear"),
    ("torch_impl", "import torch as t\nt.nn.modules.linear.Linear(2, 2)", "torch.nn.modules.linear.Linear"),
    ("torch_impl", "from torch import nn as n\nclass A(n.LayerNorm): pass", "torch.nn.LayerNorm"),
    ("torch_impl", "from torch.nn import Embedding as Parameter", "torch.nn.Embedding"),
    ("torch_impl", "from torch.nn import *", "torch.nn.*"),
    ("torch_impl", "from torch import *", "torch.*"),
    ("torch_impl", "def f():\n    from torch.nn import Linear", "torch.nn.Linear"),
    ("torch_impl", "from torch import nn\nnn.init.xavier_uniform_(w)", "torch.nn.init.xavier_uniform_"),
    ("torch_impl", "from torch.nn.init import normal_", "torch.nn.init.normal_"),
    ("torch_impl", "from torch.nn.utils import clip_grad_norm_", "torch.nn.utils.clip_grad_norm_"),
    ("torch_impl", "import torch.nn.functional as F", "torch.nn.functional"),
    ("torch_impl", "import torch.nn.functional", "torch.nn.functional"),
    ("torch_impl", "from torch.nn import functional", "torch.nn.functional"),
    ("torch_impl", "import torch\nF = torch.nn.functional", "torch.nn.functional"),
    ("torch_impl", "from torch.optim import AdamW", "torch.optim.AdamW"),
    ("torch_impl", "import torch\nclass A(torch.optim.SGD): pass", "torch.optim.SGD"),
    ("torch_impl", "import torch\nn = torch.nn\nn.Linear(2, 2)", "torch.nn"),
    ("torch_impl", "import torch as t\nx = t", "torch"),
    ("torch_impl", "from torch.optim.lr_scheduler import LambdaLR", "torch.optim.lr_scheduler.LambdaLR"),
    # functions and methods
    ("torch_impl", "import torch\ntorch.softmax(x, -1)", "torch.softmax"),
    ("torch_impl", "from torch import log_softmax as f", "torch.log_softmax"),
    ("torch_impl", "import torch\ntorch.logsumexp(x, -1)", "torch.logsumexp"),
    ("torch_impl", "import torch\ntorch.layer_norm(x, (2,))", "torch.layer_norm"),
    ("torch_impl", "import torch\ntorch.rms_norm(x, (2,))", "torch.rms_norm"),
    ("torch_impl", "import torch\ntorch.embedding(w, x)", "torch.embedding"),
    ("torch_impl", "import torch\ntorch.conv2d(x, w)", "torch.conv2d"),
    ("torch_impl", "import torch\ntorch.cosine_similarity(x, w)", "torch.cosine_similarity"),
    ("torch_impl", "import torch\ntorch.ops.aten.mm(a, b)", "torch.ops.aten.mm"),
    ("torch_impl", "import torch\ntorch._C._nn.silu(x)", "torch._C._nn.silu"),
    ("torch_impl", "from torch._C import _nn", "torch._C._nn"),
    ("torch_impl", "import torch\ntorch._softmax(x, -1, False)", "torch._softmax"),
    ("torch_impl", "import torch\ntorch.special.log_softmax(x, -1)", "torch.special.log_softmax"),
    ("torch_impl", "import torch\ntorch.Tensor.softmax(x, -1)", "torch.Tensor.softmax"),
    ("torch_impl", "(a @ b).softmax(-1)", ".softmax"),
    ("torch_impl", "y = x.log_softmax(-1)", ".log_softmax"),
    ("torch_impl", "f = x.logsumexp", ".logsumexp"),
    # names reached in a roundabout way
    ("torch_impl", "import torch\ngetattr(torch, 'softmax')(x, -1)", "torch.softmax"),
    ("torch_impl", "import torch\ngetattr(torch.nn, 'Linear')(2, 2)", "torch.nn.Linear"),
    ("torch_impl", "getattr(x, 'soft' + 'max')(-1)", "getattr(x, 'soft' + 'max')"),
    ("torch_impl", "getattr(x, 'softmax')(-1)", ".softmax"),
    ("torch_impl", "getattr(*x)", "getattr(*x)"),
    ("torch_impl", "import torch\ngetattr(torch, name)(x)", "getattr(torch, name)"),
    ("torch_impl", "import torch\ntorch.__dict__['softmax']", "torch.__dict__"),
    ("torch_impl", "import torch\nvars(torch)['soft' + 'max']", "vars"),
    ("torch_impl", "import importlib\nimportlib.import_module('torch.nn')", "'torch.nn'"),
    ("torch_impl", "from importlib import import_module as i", "importlib.import_module"),
    ("torch_impl", "__import__('torch.nn')", "__import__"),
    ("torch_impl", "import sys\nsys.modules[name]", "sys.modules"),
    ("torch_impl", "from operator import methodcaller", "operator.methodcaller"),
    ("torch_impl", "eval('x')", "eval"),
    # other libraries that know how
    ("torch_impl", "import transformers", "transformers"),
    ("torch_impl", "from flash_attn import flash_attn_func", "flash_attn.flash_attn_func"),
    ("torch_impl", "import einops", "einops"),
    ("torch_impl", "import jax", "jax"),
    ("jax_impl", "import torch", "torch"),
    *(("jax_impl", f"import {x}", x) for x in ("flax", "optax", "haiku", "equinox", "chex", "scipy.special")),
    ("jax_impl", "from flax import linen as nn", "flax.linen"),
    ("jax_impl", "import jax\njax.nn.softmax(x)", "jax.nn.softmax"),
    ("jax_impl", "from jax import nn", "jax.nn"),
    ("jax_impl", "import jax.nn as n", "jax.nn"),
    ("jax_impl", "from jax.nn import initializers", "jax.nn.initializers"),
    ("jax_impl", "import jax as j\nj.scipy.special.logsumexp(x)", "jax.scipy.special.logsumexp"),
    ("jax_impl", "from jax.scipy.special import logsumexp", "jax.scipy.special.logsumexp"),
    ("jax_impl", "from jax.example_libraries import optimizers", "jax.example_libraries.optimizers"),
    ("jax_impl", "from jax.experimental import optimizers", "jax.experimental.optimizers"),
    ("jax_impl", "from jax._src.nn import functions", "jax._src.nn.functions"),
]


@pytest.mark.parametrize(("package", "code", "name"), BAD)
def test_the_checker_finds(package: str, code: str, name: str) -> None:
    found = list(violations({f"{package}.layers": ast.parse(code)}))
    assert any(violation.endswith(f": {name}") for violation in found), found


GOOD = [
    ("torch_impl", "import torch\nfrom torch import Tensor, nn\nnn.Parameter(torch.empty(2))"),
    ("torch_impl", "from torch import nn\nnn.init.trunc_normal_(w, std=1.0)\nclass A(nn.Module): pass"),
    ("torch_impl", "from torch.nn.init import trunc_normal_"),
    ("torch_impl", "import torch.nn as nn\nnn.ModuleList([nn.Sequential()])"),
    ("torch_impl", "from torch.optim import Optimizer\nclass A(Optimizer): pass"),
    ("torch_impl", "import torch\nx.exp() / x.exp().sum(-1)\ntorch.sigmoid(x)\ntorch.__version__"),
    ("torch_impl", "from torch_impl.functional import softmax\nsoftmax(x, -1)"),
    ("torch_impl", "from torch_impl import functional\nfunctional.softmax(x, -1)"),
    ("torch_impl", "from .functional import softmax, silu\nsilu(softmax(x, -1))"),
    ("torch_impl", "import torch\ngetattr(torch, config.param_dtype)\ngetattr(x, 'name', None)"),
    ("torch_impl", "layers = {'softmax': f}\nself.embedding(x)"),
    ("torch_impl", '"""As torch.nn.functional."""\ndef softmax(x):\n    """torch.softmax"""\n    return x'),
    ("jax_impl", "import jax\nimport jax.numpy as jnp\nfrom jax import lax\nlax.logistic(x)\njnp.exp(x)"),
    ("jax_impl", "import jax\njax.jit(f)\njax.tree.map(f, x)\njax.lax.rsqrt(x)\njax.__version__"),
    ("jax_impl", "from jax_impl.functional import silu\nsilu(x)"),
]


@pytest.mark.parametrize(("package", "code"), GOOD)
def test_the_checker_allows(package: str, code: str) -> None:
    assert list(violations({f"{package}.layers": ast.parse(code)})) == []


def test_the_checker_follows_what_our_modules_import() -> None:
    trees = {
        "torch_impl": ast.parse("from .layers import n"),
        "torch_impl.layers": ast.parse("from torch import nn as n"),
        "torch_impl.model": ast.parse("from torch_impl import layers, n\nlayers.n.Linear(2, 2)\nn.GELU()"),
        "torch_impl.parts.head": ast.parse("from ..layers import n as m\nm.Dropout()"),
    }
    assert list(violations(trees)) == [
        "torch_impl.model:2: torch.nn.Linear",
        "torch_impl.model:3: torch.nn.GELU",
        "torch_impl.parts.head:2: torch.nn.Dropout",
    ]
