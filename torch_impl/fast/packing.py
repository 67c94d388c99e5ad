"""Weights side by side in one array, so that clipping and the optimizer take few operations a step.

An operation on a small array takes the time of its call. A model of 21 weights spent an eighth of its step in AdamW
(docs/benchmarks.md, "What helped, and what did not"). On a GPU, all weights are packed: copying gradients is fast
there, and each call costs more.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from torch_impl.fast.switch import is_on

SMALL_WEIGHT = 1 << 13
"""Most elements of a weight that is packed on a CPU: copying its gradient takes less time than a call."""
_PACKED = 1 << 26
"""Most elements of several weights in one array: packing and updating them takes as much memory again."""
_ROW = 1024
"""Elements in a row of packed weights. Norms are computed row by row (`torch_impl.functional.global_norm`)."""


@dataclass(frozen=True)
class Array:
    """What the optimizer updates as one array: a weight, or several small weights and zeros that fill the last row."""

    whole: Tensor
    """The weight itself, or (rows, 1024) numbers. The weights in `parts` lie in its memory."""
    parts: Mapping[str, Tensor]

    @property
    def is_packed(self) -> bool:
        """Whether the array holds several weights."""
        return len(self.parts) > 1

    def take_gradients(self) -> None:
        """Give `whole` the gradients of its parts, and mark the parts as changed: the optimizer changes `whole`."""
        if self.is_packed:
            gradients = (torch.zeros_like(p) if p.grad is None else p.grad for p in self.parts.values())
            self.whole.grad = _join(gradients)
            for p in self.parts.values():
                p.grad = None
            torch.autograd.graph.increment_version(tuple(self.parts.values()))

    def views(self, x: Tensor) -> dict[str, Tensor]:
        """Return each weight's part of an array shaped like `whole`, such as a moment, in the weight's shape."""
        if not self.is_packed:
            return dict.fromkeys(self.parts, x)
        sizes = [p.numel() for p in self.parts.values()]
        cut = x.flatten().split([*sizes, x.numel() - sum(sizes)])
        return {name: y.view(p.shape) for (name, p), y in zip(self.parts.items(), cut, strict=False)}


def _join(tensors: Iterable[Tensor]) -> Float[Tensor, "R C"]:
    """Return the elements of all tensors in rows, the last row filled with zeros."""
    flat = [x.flatten() for x in tensors]
    rest = -sum(len(x) for x in flat) % _ROW
    return torch.cat((*flat, flat[0].new_zeros(rest))).view(-1, _ROW)


def pack(weights: Mapping[str, Tensor]) -> list[Array]:
    """Move the small weights, and on a GPU all weights, into few arrays. Each stays the same Parameter in other memory.

    If fast forms are switched off, each weight is an array of its own. So is a process's share of a weight on a mesh,
    whose memory belongs to fully_shard.
    """
    groups: list[dict[str, Tensor]] = [{}]
    for name, p in weights.items():
        if is_on() and _is_packed(p):
            if sum(q.numel() for q in groups[-1].values()) + p.numel() > _PACKED:
                groups.append({})
            groups[-1][name] = p
    groups = [group for group in groups if len(group) > 1]
    packed = {name for group in groups for name in group}
    arrays = [Array(p, {name: p}) for name, p in weights.items() if name not in packed]
    for group in groups:
        array = Array(_join(p.detach() for p in group.values()), group)
        for name, view in array.views(array.whole).items():
            group[name].data = view
        arrays.append(array)
    return arrays


def _is_packed(p: Tensor) -> bool:
    return isinstance(p, nn.Parameter) and (p.numel() <= SMALL_WEIGHT or not p.is_cpu)


def moments(arrays: Iterable[Array], optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Yield `m.<name>` and `v.<name>` of every weight; zeros before the first step."""
    for array in arrays:
        state = optimizer.state.get(array.whole, {})
        for moment in ("m", "v"):
            whole = state[moment] if moment in state else torch.zeros_like(array.whole)
            for name, x in array.views(whole).items():
                yield f"{moment}.{name}", x.detach()
