"""Which blocks of queries meet which blocks of keys: what a mask hides whole is left out."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torch_impl.fast.masks import Mask
from torch_impl.fast.transfer import on_host, send


class Tile(NamedTuple):
    """A block of queries of some sequences and some heads of keys, and the blocks of keys that they meet."""

    b: slice
    g: slice
    t: slice
    rows: slice
    """The sequences and heads as one axis."""
    keys: list[tuple[slice, Tensor | None]]
    """Blocks of keys, each with inf for a pair that attends and -inf for one that does not; None if all pairs do."""

    def cut(self, x: Float[Tensor, "B G R T K"]) -> Float[Tensor, "_B _G R _T K"]:
        """Return the tile's part of an array."""
        return x[self.b, self.g, :, self.t]


class Plan(NamedTuple):
    """The tiles of an attention, in the order in which they are computed."""

    tiles: list[Tile]
    keys: list[slice]
    """All blocks of keys."""
    unread_BS: Bool[Tensor, "#B S"] | None
    """The keys that no query may attend to; None if there is no such key."""


def make_plan(
    mask: Mask | Bool[Tensor, "#B T S"] | None,
    sizes: tuple[int, int, int, int, int],
    block: tuple[int, int],
    limit: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Plan:
    """Return the tiles of B sequences with G heads of keys, R query heads for each of them, T queries and S keys.

    Args:
        sizes: B, G, R, T and S.
        block: The largest numbers of queries and keys in a block.
        limit: Most scores in a tile's block, if one head has no more.
        dtype: The scores' type.
    """
    B, G, R, T, S = sizes
    heads = max(1, limit // max(1, R * min(T, block[0]) * min(S, block[1])))
    ranges = None if mask is None else _Dense(mask) if isinstance(mask, Tensor) else _Ranges(mask, S)
    tiles, blocks = [], list(_split(S, block[1]))
    for t in _split(T, block[0]):
        for b in _split(B, max(1, heads // G)):
            if ranges is None:
                keys: list[tuple[slice, Tensor | None]] = [(s, None) for s in blocks]
            elif b.start == 0 or ranges.batch > 1:
                found = ((s, ranges.pairs(b, t, s)) for s in blocks)
                keys = [(s, _limits(pairs, dtype)) for s, pairs in found if pairs is not False]
            for g in _split(G, heads):
                rows = slice(b.start * G + g.start, (b.stop - 1) * G + g.stop)
                tiles.append(Tile(b, g, t, rows, keys))
    unread_BS = None if ranges is None else ranges.unread()
    if unread_BS is None or not unread_BS.any():
        return Plan(tiles, blocks, None)
    return Plan(tiles, blocks, send(unread_BS, device) if unread_BS.is_cpu else unread_BS)


def hide(scores_NTS: Float[Tensor, "N T S"], limits: Float[Tensor, "..."] | None) -> Float[Tensor, "N T S"]:
    """Set the scores of pairs that do not attend to -inf, in place. `masked_fill_` takes eight times as long."""
    if limits is not None:
        grouped = scores_NTS.view(len(limits), -1, *limits.shape[-2:])
        torch.minimum(grouped, limits, out=grouped)
    return scores_NTS


def _split(size: int, count: int) -> Iterator[slice]:
    """Yield slices of at most `count` of `size` places."""
    return (slice(start, min(start + count, size)) for start in range(0, size, count))


def _limits(pairs: Bool[Tensor, "#B T S"] | bool, dtype: torch.dtype) -> Tensor | None:
    """Return the largest scores that pairs may have, with an axis for the heads."""
    if isinstance(pairs, bool):
        return None
    return torch.where(pairs, torch.inf, -torch.inf).to(dtype)[:, None]


class _Dense:
    """A mask that is written out."""

    def __init__(self, mask_BTS: Bool[Tensor, "#B T S"]) -> None:
        self.mask_BTS, self.batch = mask_BTS, len(mask_BTS)

    def pairs(self, b: slice, t: slice, s: slice) -> Tensor | bool:
        """Return which pairs of a block attend, or one value for all of them."""
        pairs = self.mask_BTS[b if self.batch > 1 else slice(None), t, s]
        return bool(pairs.any()) and (bool(pairs.all()) or pairs)

    def unread(self) -> Bool[Tensor, "#B S"]:
        """Return the keys that no query may attend to."""
        return ~self.mask_BTS.any(1)


class _Ranges:
    """A mask that is described by ranges: most blocks are decided by the ends of their ranges."""

    def __init__(self, mask: Mask, S: int) -> None:
        self.mask, self.S = mask, S
        self.first_BT, self.last_BT = torch.atleast_2d(mask.first_T, mask.last_T)
        present_S = mask.present_S
        self.present_BS = None if present_S is None else torch.atleast_2d(present_S)
        self.batch = len(self.first_BT)
        self.ends = tuple(torch.atleast_2d(on_host(x)) for x in (mask.first_T, mask.last_T))
        self.present = None if present_S is None else torch.atleast_2d(on_host(present_S))

    def pairs(self, b: slice, t: slice, s: slice) -> Tensor | bool:
        """Return which pairs of a block attend, or one value for all of them."""
        if self.batch == 1:
            b = slice(None)
        first, last = (end[b, t] for end in self.ends)
        present = None if self.present is None else self.present[b, s]
        if int(first.min()) >= s.stop or int(last.max()) < s.start or not (present is None or present.any()):
            return False
        if (
            int(first.max()) <= s.start
            and int(last.min()) >= s.stop - 1
            and (present is None or present.all())
        ):
            return True
        part = replace(
            self.mask,
            first_T=self.first_BT[b, t] - s.start,
            last_T=self.last_BT[b, t] - s.start,
            present_S=None if self.present_BS is None else self.present_BS[b, s],
        )
        pairs: Bool[Tensor, "B 1 T S"] = part.pairs(s.stop - s.start)
        return pairs[:, 0]

    def unread(self) -> Bool[Tensor, "#B S"]:
        """Return the keys that no query may attend to, in the host's memory, in time linear in the context."""
        # One more reader at a range's first key, one less after its last.
        first, last = self.ends
        change = first.new_zeros(self.batch, self.S + 1)
        some = (first <= last).to(first.dtype)
        change.scatter_add_(1, first.clamp(max=self.S), some)
        change.scatter_add_(1, (last + 1).clamp(max=self.S), -some)
        unread = change.cumsum(1)[:, :-1] == 0
        if self.present is not None:
            unread |= ~self.present
        return unread
