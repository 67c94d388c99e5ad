"""The project's own source files, as syntax trees."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


def modules(package: str) -> dict[str, ast.Module]:
    """Dotted name -> syntax tree of every module of a package, found by walking its folder."""
    trees = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        trees[name] = ast.parse(path.read_text(encoding="utf-8"))
    return trees
