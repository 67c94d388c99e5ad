"""Nested dicts and lists of arrays, and the dotted names of their leaves."""

from collections.abc import Collection, Iterator
from typing import Any

import jax
from jaxtyping import Array


def nested(leaves: dict[str, Any]) -> Any:
    """Build nested dicts and lists from leaves that are named by dotted paths.

    >>> nested({"layers.0.weight": 1, "layers.1.weight": 2})
    {'layers': [{'weight': 1}, {'weight': 2}]}
    """
    if "" in leaves:
        return leaves[""]
    if not leaves:
        return {}
    children: dict[str, dict[str, Any]] = {}
    for name, leaf in leaves.items():
        key, _, rest = name.partition(".")
        children.setdefault(key, {})[rest] = leaf
    if all(key.isdigit() for key in children):
        return [nested(children[str(i)]) for i in range(len(children))]
    return {key: nested(child) for key, child in children.items()}


def choose(tree: Any, names: Collection[str]) -> Any:
    """Return the part of nested dicts and lists whose leaves have these names."""
    return nested({name: leaf for name, leaf in named_leaves(tree) if name in names})


def join(*trees: Any) -> Any:
    """Return nested dicts and lists with the leaves of all these parts: the inverse of `choose`."""
    return nested({name: leaf for tree in trees for name, leaf in named_leaves(tree)})


def named_leaves(tree: Any) -> Iterator[tuple[str, Array]]:
    """Yield each leaf of nested dicts and lists with its dotted path."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="."), leaf
