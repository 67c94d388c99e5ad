"""Faults in torch_impl/fast/attention.py."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.faults.fault import ATTENTION, BLOCKS, FAMILY, HEADS, ROPE, SOFTCAP, fault
from torch_impl.masks import Mask


@fault("decoding sees what is hidden", "torch_impl.fast.attention.single_query_attention", HEADS)
def _(single_query_attention: Any) -> Any:
    def broken(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, mask: Any, *others: Any) -> Any:
        if isinstance(mask, Mask):
            mask = mask.pairs(k_BGSK.shape[-2])
        return single_query_attention(q_BHTK, k_BGSK, v_BGSK, None if mask is None else ~mask, *others)

    return broken


@fault(
    "groups of queries interleave in decoding",
    "torch_impl.fast.attention.single_query_attention",
    FAMILY,
)
def _(single_query_attention: Any) -> Any:
    def broken(q_BHTK: Tensor, k_BGSK: Tensor, *others: Any) -> Any:
        q_BHTK = q_BHTK.unflatten(-3, (-1, k_BGSK.shape[-3])).transpose(-3, -4).flatten(-4, -3)
        return single_query_attention(q_BHTK, k_BGSK, *others)

    return broken


@fault("the gradient of few scores lacks the softmax's mean", "torch_impl.fast.attention.OneBlock", ATTENTION)
def _(function: Any) -> Any:
    def apply(
        q_BHTK: Tensor, k_BGSK: Tensor, v_BGSV: Tensor, limits: Tensor | None, cap: float | None
    ) -> Tensor:
        """Attend. The gradient of the scores is weights * d_weights, not weights * (d_weights - mean)."""
        k, v = (x.repeat_interleave(q_BHTK.shape[1] // x.shape[1], 1) for x in (k_BGSK, v_BGSV))
        scores = q_BHTK @ k.mT * q_BHTK.shape[-1] ** -0.5
        if limits is not None:
            scores = torch.minimum(scores, limits)
        log_sum = torch.logsumexp(scores, -1, keepdim=True).detach().clamp(min=torch.finfo(scores.dtype).min)
        return torch.exp(scores - log_sum) @ v

    return SimpleNamespace(forward=function.forward, apply=apply)


B = "torch_impl.fast.blockwise."
T = "torch_impl.fast.tiles."


@fault("the running sum is not scaled to the new maximum", B + "_add_block", BLOCKS)
def _(add_block: Any) -> Any:
    def broken(scores: Tensor, values: Tensor, kept: Any, top: Tensor, sums: Tensor, mixed: Tensor) -> Tensor:
        before = sums.clone()
        higher = add_block(scores, values, kept, top, sums, mixed)  # top is now the factor
        sums.add_(before - before * top)
        return higher

    return broken


@fault("the mixed values are not scaled to the new maximum", B + "_add_block", BLOCKS)
def _(add_block: Any) -> Any:
    def broken(scores: Tensor, values: Tensor, kept: Any, top: Tensor, sums: Tensor, mixed: Tensor) -> Tensor:
        before = mixed.clone()
        higher = add_block(scores, values, kept, top, sums, mixed)
        mixed.add_(before - before * top)
        return higher

    return broken


@fault("weights are divided by the sum over the last block", B + "_add_block", BLOCKS)
def _(add_block: Any) -> Any:
    def broken(scores: Tensor, values: Tensor, kept: Any, top: Tensor, sums: Tensor, mixed: Tensor) -> Tensor:
        return add_block(scores, values, kept, top, sums.zero_(), mixed)

    return broken


@fault("the sum is taken after dropout", B + "_add_block", BLOCKS)
def _(add_block: Any) -> Any:
    def broken(scores: Tensor, values: Tensor, kept: Any, top: Tensor, sums: Tensor, mixed: Tensor) -> Tensor:
        if kept is not None:
            scores = scores.masked_fill(kept == 0, -torch.inf)
        return add_block(scores, values, kept, top, sums, mixed)

    return broken


@fault("the gradient of scores lacks the softmax's mean", B + "_flow", ATTENTION)
def _(flow: Any) -> Any:
    def broken(*arguments: Any) -> tuple[Tensor, Tensor]:
        found, mean = flow(*arguments)
        return found, torch.zeros_like(mean)

    return broken


@fault("the incoming gradient is not divided by the sum", B + "_flow", ATTENTION)
def _(flow: Any) -> Any:
    return lambda tile, g_out, out, total, dtype: flow(tile, g_out, out, torch.ones_like(total), dtype)


@fault("a block of keys has the dropout of the first block", B + "_kept", BLOCKS)
def _(kept: Any) -> Any:
    def broken(drop: Any, tile: Any, s: slice, *arrays: Tensor) -> Any:
        return kept(drop, tile, slice(0, s.stop - s.start), *arrays)

    return broken


@fault("a tile has the dropout of the first sequences", B + "_kept", BLOCKS)
def _(kept: Any) -> Any:
    def broken(drop: Any, tile: Any, *others: Any) -> Any:
        return kept(drop, tile._replace(b=slice(0, tile.b.stop - tile.b.start)), *others)

    return broken


@fault("the last block of keys is skipped", "torch_impl.fast.attention.make_plan", BLOCKS)
def _(make_plan: Any) -> Any:
    def broken(*arguments: Any) -> Any:
        plan = make_plan(*arguments)
        return plan._replace(tiles=[tile._replace(keys=tile.keys[:-1] or tile.keys) for tile in plan.tiles])

    return broken


@fault("a block whose first key alone attends is skipped", T + "_Ranges.pairs", BLOCKS)
def _(pairs: Any) -> Any:
    def broken(self: Any, b: slice, t: slice, s: slice) -> Any:
        b_ = slice(None) if self.batch == 1 else b
        return int(self.ends[1][b_, t].max()) > s.start and pairs(self, b, t, s)

    return broken


@fault("a block whose last key alone is hidden has no mask", T + "_Ranges.pairs", BLOCKS)
def _(pairs: Any) -> Any:
    def broken(self: Any, b: slice, t: slice, s: slice) -> Any:
        return pairs(self, b, t, slice(s.start, max(s.stop - 1, s.start + 1))) is True or pairs(self, b, t, s)

    return broken


@fault("all sequences of a tile have the ends of the first", T + "_Ranges.pairs", BLOCKS)
def _(pairs: Any) -> Any:
    return lambda self, b, t, s: pairs(self, slice(b.start, b.start + 1), t, s)


@fault("keys that nobody reads may be NaN", T + "_Ranges.unread", BLOCKS)
def _(unread: Any) -> Any:
    return lambda self: torch.zeros_like(unread(self))


@fault("the fast RoPE turns the other way", "torch_impl.fast.attention.rope", ROPE)
def _(rope: Any) -> Any:
    return lambda x, tables: rope(x, (tables[0], -tables[1]))


@fault("capped scores flow back as if they had no cap", B + "softcap_", SOFTCAP)
def _(softcap_: Any) -> Any:
    return lambda scores, cap: torch.ones_like(softcap_(scores, cap))
