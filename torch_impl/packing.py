"""Small weights side by side in one array, so that clipping and the optimizer take few operations a step.

An operation on a small array costs its call, not its arithmetic: a model of 21 weights spent an eighth of its step in
AdamW (docs/benchmarks.md, "What paid, and what did not").
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_SMALL = 1 << 13
"""Elements of a weight that is packed, at most: copying its gradient takes less time than a call, and little memory."""
_ROW = 1024
"""Elements of a row of packed weights. Norms are taken row by row (`torch_impl.functional.global_norm`)."""


@dataclass(frozen=True)
class Array:
    """What the optimizer updates as one: a weight, or small weights and the zeros that fill the last row."""

    whole: Tensor
    """The weight itself, or (rows, 1024) numbers. The weights in `parts` lie in its memory."""
    parts: dict[str, Tensor]

    @property
    def is_packed(self) -> bool:
        """Whether it holds several weights, not one as it is."""
        return len(self.parts) > 1

    def take_gradients(self) -> None:
        """Give `whole` the gradients of its parts."""
        if self.is_packed:
            gradients = (torch.zeros_like(p) if p.grad is None else p.grad for p in self.parts.values())
            self.whole.grad = join(gradients)

    def views(self, x: Tensor) -> dict[str, Tensor]:
        """The part of each weight in an array of the shape of `whole`, such as a moment, in the weight's shape."""
        if not self.is_packed:
            return dict.fromkeys(self.parts, x)
        sizes = [p.numel() for p in self.parts.values()]
        cut = x.flatten().split([*sizes, x.numel() - sum(sizes)])
        return {name: y.view(p.shape) for (name, p), y in zip(self.parts.items(), cut, strict=False)}


def join(tensors: Iterable[Tensor]) -> Float[Tensor, "R C"]:
    """The elements of all tensors in rows, the last row filled with zeros."""
    flat = [x.flatten() for x in tensors]
    rest = -sum(len(x) for x in flat) % _ROW
    return torch.cat((*flat, flat[0].new_zeros(rest))).view(-1, _ROW)


def pack(weights: Mapping[str, Tensor]) -> list[Array]:
    """Move the small weights into one array, if there are several. Each stays the same Parameter in other memory."""
    small = {name: p for name, p in weights.items() if p.numel() <= _SMALL}
    if len(small) < 2:
        small = {}
    arrays = [Array(p, {name: p}) for name, p in weights.items() if name not in small]
    if small:
        whole = Array(join(p.detach() for p in small.values()), small)
        for name, view in whole.views(whole.whole).items():
            small[name].data = view
        arrays.append(whole)
    return arrays
