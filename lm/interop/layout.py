"""Which tensors of a family make up which of our weights. All maps are linear, so they hold for gradients, too.

Two things differ from ours in every family with RoPE: the names, and the pairs that RoPE rotates. The families rotate
(p, p + d_head / 2) in each head, and this project rotates (2p, 2p + 1), so the rows of the query and key projections,
and the gains of the query and key norms, change places. Some families stack matrices, and GPT-2 transposes them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lm.config import ModelConfig
from lm.init import parameter_shapes
from lm.interop.family import Family

_ROTATED = re.compile(r"attn\.[qk]_(proj|norm)\.")


@dataclass(frozen=True)
class Layout:
    """One tensor of theirs: one of our parameters, or several stacked along their first dimension."""

    name: str
    """Its name there, without the prefix."""
    parts: Mapping[str, tuple[int, ...]]
    """Shape of each of our parameters, by its name and in order."""
    is_transposed: bool
    rotated_width: int | None
    """Width of a head, if RoPE rotates any part."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of their tensor."""
        shapes = list(self.parts.values())
        shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        return shape[::-1] if self.is_transposed else shape

    def to_ours(self, tensor: np.ndarray) -> dict[str, np.ndarray]:
        """Cut their tensor, or a gradient of it, into ours."""
        rows = tensor.T if self.is_transposed else tensor
        ends = np.cumsum([shape[0] for shape in self.parts.values()])
        pieces = np.split(rows, ends[:-1])
        return {
            name: interleave_halves(piece, self.rotated_width)
            if self.rotated_width and _ROTATED.search(name)
            else piece
            for name, piece in zip(self.parts, pieces, strict=True)
        }

    def to_theirs(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Stack our arrays to their tensor: the inverse of `to_ours`."""
        rows = np.concatenate(
            [
                split_halves(arrays[name], self.rotated_width)
                if self.rotated_width and _ROTATED.search(name)
                else arrays[name]
                for name in self.parts
            ]
        )
        return np.ascontiguousarray(rows.T if self.is_transposed else rows)


def layouts(family: Family, model: ModelConfig) -> dict[str, Layout]:
    """Return the layout of each tensor of a model, by its name with the family's prefix, in forward order."""
    places = {ours: theirs for theirs, stacked in family.modules.items() for ours in stacked.split()}
    parts: dict[tuple[str, str], dict[str, tuple[int, ...]]] = {}
    for name, shape in parameter_shapes(model).items():
        matched = re.fullmatch(r"(?:layers\.(\d+)\.)?(.+)\.(weight|bias)", name)
        assert matched is not None
        i, module, leaf = matched.groups()
        layer = "" if i is None else f"{family.layer}{i}."
        parts.setdefault((layer, f"{places[module]}.{leaf}"), {})[name] = shape
    width = model.d_head if model.position == "rope" else None
    found = (
        Layout(layer + name, named, name.removesuffix(".weight") in family.transposed, width)
        for (layer, name), named in parts.items()
    )
    return {with_prefix(family.prefix, layout.name): layout for layout in found}


def with_prefix(prefix: str, name: str) -> str:
    """Return a tensor's name with the prefix. The head has none."""
    return name if name.startswith("lm_head.") else prefix + name


def to_our_names(
    family: Family, model: ModelConfig, tensors: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return arrays by our names, from arrays by the names of the family's model with a head, such as its gradients."""
    return {
        name: array
        for theirs, layout in layouts(family, model).items()
        for name, array in layout.to_ours(tensors[theirs]).items()
    }


def split_halves(rows: np.ndarray, d_head: int) -> np.ndarray:
    """Reorder the rows of each head from our order to theirs: rows 0, 2, 4, ..., then 1, 3, 5, ..."""
    return rows.reshape(-1, d_head // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def interleave_halves(rows: np.ndarray, d_head: int) -> np.ndarray:
    """Reorder the rows of each head from their order to ours: the inverse of `split_halves`."""
    return rows.reshape(-1, 2, d_head // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
