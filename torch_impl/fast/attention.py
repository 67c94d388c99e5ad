"""Faster forms of attention and of RoPE. docs/benchmarks.md has the measurements."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd import Function
from torch.utils.weak import WeakTensorKeyDictionary

from torch_impl.dtypes import at_least_float32
from torch_impl.fast.blocks import ROWS_BLOCK, ROWS_BLOCK_GPU
from torch_impl.fast.gradients import apply, cast, differentiable_once
from torch_impl.masks import Mask

_KEPT_KEYS = 512
"""With at most this many keys, scores are smaller than a block's other activations, and are kept for the gradient."""
_QUERIES = 64
"""Queries in a block of scores on a CPU."""
Drop = Callable[[Tensor], Tensor]


def single_query_attention(
    q_BHTK: Float[Tensor, "*B H T K"],
    k_BGSK: Float[Tensor, "*B G S K"],
    v_BGSK: Float[Tensor, "*B G S K"],
    mask: Mask | Bool[Tensor, "*M T S"] | None,
    drop: Drop | None = None,
) -> Any:
    """Attend with one query a sequence, without a gradient: a decode step.

    This form takes a third of the formula's operations; so small an operation takes the time of its call. All keys and
    values must be finite, even those that the mask hides: a cache holds zeros until it is written.
    """
    if q_BHTK.ndim != 4 or q_BHTK.shape[2] > 1 or drop is not None or torch.is_grad_enabled():
        return NotImplemented
    (B, H, _, K), (G, S) = q_BHTK.shape, k_BGSK.shape[1:3]
    q_NRK = (at_least_float32(q_BHTK) * K**-0.5).reshape(B * G, H // G, K)
    scores_NRS = torch.bmm(q_NRK, at_least_float32(k_BGSK).flatten(0, 1).mT)
    if isinstance(mask, Mask):
        mask = mask.pairs(S)
    if mask is not None:
        scores_NRS.view(B, H, 1, S).masked_fill_(~mask, -torch.inf)
    # A query that may attend to nothing yields zeros: their sum is taken to be the smallest number.
    least = torch.finfo(scores_NRS.dtype)
    exp_NRS = scores_NRS.sub_(scores_NRS.amax(-1, keepdim=True).clamp_(min=least.min)).exp_()
    weights_NRS = exp_NRS.div_(exp_NRS.sum(-1, keepdim=True).clamp_(min=least.tiny))
    return torch.bmm(cast(weights_NRS, v_BGSK.dtype), v_BGSK.flatten(0, 1)).view(B, H, 1, K)


def scaled_dot_product_attention(
    Q: Float[Tensor, "*B T K"],
    K: Float[Tensor, "*B S K"],
    V: Float[Tensor, "*B S V"],
    mask: Bool[Tensor, "... T S"] | None = None,
    drop: Drop | None = None,
) -> Any:
    """Attend with `SmallAttention` or `Attention`, for any number of leading axes.

    Over long contexts the form keeps no scores. Forward and backward take 65 ms in place of the formula's 70 (batch 8,
    16 heads, 256 tokens).
    """
    if drop is not None:
        return NotImplemented
    lead, (T, S) = Q.shape[:-2], (Q.shape[-2], K.shape[-2])
    if Q.device.type == "cpu" and Q.dtype.itemsize >= 4 and lead.numel() * T * S <= ROWS_BLOCK:
        hidden = None if mask is None else _hidden_keys(mask)
        if mask is None or hidden is not None:
            flat = (x.reshape(-1, *x.shape[-2:]) for x in (Q, K, V))
            return apply(SmallAttention, *flat, hidden).view(*lead, T, V.shape[-1])
    if mask is not None and len(lead) > 2 and mask.ndim > 3:
        mask = _four_axes(mask.expand(*lead, *mask.shape[-2:]))
    return apply(Attention, *map(_four_axes, (Q, K, V)), mask).view(*lead, T, V.shape[-1])


_known_masks = WeakTensorKeyDictionary()
"""Results of `_hidden_keys` by mask: the layers of a model share one mask."""


def _hidden_keys(mask: Bool[Tensor, "... T S"]) -> Bool[Tensor, "T S"] | None:
    """Return the opposite of a mask that serves all sequences and leaves no query and no key out; otherwise None."""
    if mask.ndim > 2:
        return None
    version = None if mask.is_inference() else mask._version
    known, hidden = _known_masks.get(mask, (None, None))
    if version is None or version != known:
        hidden = ~mask if mask.any(0).all() and mask.any(1).all() else None
        _known_masks[mask] = (version, hidden)
    return hidden


class SmallAttention(Function):
    """softmax(Q K^T / sqrt(d_k)) V with all scores at once, if they are few enough to stay in the processor's cache.

    It takes a third of the operations of `Attention`. For small arrays, an operation takes the time of its call. Every
    query must attend to some key, and every key must be attended to.
    """

    @staticmethod
    def forward(
        ctx: Any,
        Q: Float[Tensor, "N T K"],
        K: Float[Tensor, "N S K"],
        V: Float[Tensor, "N S V"],
        hidden: Bool[Tensor, "T S"] | None,
    ) -> Float[Tensor, "N T V"]:
        scores = torch.baddbmm(Q.new_zeros(()), Q, K.mT, beta=0, alpha=Q.shape[-1] ** -0.5)
        if hidden is not None:
            scores.masked_fill_(hidden, -torch.inf)
        weights = scores.sub_(scores.amax(-1, keepdim=True)).exp_()
        weights.div_(weights.sum(-1, keepdim=True))
        ctx.save_for_backward(Q, K, V, weights)
        return torch.bmm(weights, V)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        Q, K, V, weights = ctx.saved_tensors
        d_weights = torch.bmm(g, V.mT)
        mean = torch.linalg.vecdot(d_weights, weights)[..., None]
        d_scores = d_weights.sub_(mean).mul_(weights).mul_(Q.shape[-1] ** -0.5)
        return torch.bmm(d_scores, K), torch.bmm(d_scores.mT, Q), torch.bmm(weights.mT, g), None


class Attention(Function):
    """softmax(Q K^T / sqrt(d_k)) V, a block of queries of some heads at a time.

    A block's scores stay in the processor's cache. Over long contexts they are not kept: the gradient computes them
    again (Rabe and Staats, 2021, section 3). On a CPU, keys that no query of a block may see are passed over: half the
    work under a causal mask. Q, K and V have the same leading axes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        Q: Float[Tensor, "B H T K"],
        K: Float[Tensor, "B H S K"],
        V: Float[Tensor, "B H S V"],
        mask: Bool[Tensor, "... T S"] | None,
    ) -> Float[Tensor, "B H T V"]:
        B, H, T, _ = Q.shape
        unread = None if mask is None else ~mask.any(-2)[..., None]
        if unread is not None and not (unread.device.type == "cpu" and not unread.any()):
            K, V = K.masked_fill(unread, 0), V.masked_fill(unread, 0)
        else:
            unread = None
        blocks = list(_attention_blocks(Q, K, mask))
        # Heads side by side, as the projection after it reads them.
        out = V.new_empty(B, T, H, V.shape[-1]).transpose(1, 2)
        largest, total = Q.new_empty(2, B, H, T, 1, dtype=torch.promote_types(Q.dtype, torch.float32))
        kept = []
        for b, h, t, seen_by_all, seen in blocks:
            scores = _scores(Q[b, h, t], K[b, h, :seen], _hidden(mask, b, h, t, seen_by_all, seen))
            top = scores.amax(-1, keepdim=True)
            # A query that may attend to nothing yields zeros: their sum is taken to be 1.
            top.masked_fill_(top == -torch.inf, 0.0)
            weights = scores.sub_(top).exp_()
            sums = weights.sum(-1, keepdim=True)
            sums.masked_fill_(sums == 0.0, 1.0)
            largest[b, h, t], total[b, h, t] = top, sums
            out[b, h, t] = (weights.to(V.dtype) @ V[b, h, :seen]).div_(sums)
            if K.shape[-2] <= _KEPT_KEYS:
                kept.append(weights)
        ctx.save_for_backward(Q, K, V, mask, unread, out, largest, total, *kept)
        ctx.blocks = blocks
        return out

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        Q, K, V, mask, unread, out, largest, total, *kept = ctx.saved_tensors
        d_Q, d_K, d_V = (_heads_side_by_side(x) for x in (Q, K, V))
        d_K.zero_()
        d_V.zero_()
        scale = Q.shape[-1] ** -0.5
        # The weights are the exponentials over their sum. The sum divides the incoming gradient instead.
        g = at_least_float32(g) / total
        # The mean of an output that was rounded to bfloat16 would be off by more than the gradients may be.
        mean = (g * out).sum(-1, keepdim=True) if out.dtype == g.dtype else None
        g = g.to(V.dtype)
        for i, (b, h, t, seen_by_all, seen) in enumerate(ctx.blocks):
            q, k, v, g_out = Q[b, h, t], K[b, h, :seen], V[b, h, :seen], g[b, h, t]
            if kept:
                weights = kept[i]
            else:
                scores = _scores(q, k, _hidden(mask, b, h, t, seen_by_all, seen))
                weights = scores.sub_(largest[b, h, t]).exp_()
            d_V[b, h, :seen].add_(weights.to(v.dtype).mT @ g_out)
            d_weights = at_least_float32(g_out @ v.mT)
            if mean is None:
                means = torch.linalg.vecdot(d_weights, weights)[..., None] / total[b, h, t]
            else:
                means = mean[b, h, t]
            d_scores = d_weights.sub_(means).mul_(weights).to(q.dtype)
            d_Q[b, h, t] = (d_scores @ k).mul_(scale)
            d_K[b, h, :seen].add_((d_scores.mT @ q).mul_(scale))
        if unread is not None:
            d_K.masked_fill_(unread, 0)
            d_V.masked_fill_(unread, 0)
        return d_Q, d_K, d_V, None


def _attention_blocks(
    Q: Tensor, K: Tensor, mask: Tensor | None
) -> Iterator[tuple[slice, slice, slice, int, int]]:
    """Yield entries of the batch, heads and queries of a block, and two counts of first keys.

    All of the block's queries see the first count of keys, and none sees a key after the second count.
    """
    (B, H, T, _), S = Q.shape, K.shape[-2]
    spans = [(slice(0, T), 0 if mask is not None else S, S)]
    limit = ROWS_BLOCK if Q.device.type == "cpu" else ROWS_BLOCK_GPU
    if mask is not None and mask.ndim == 2 and mask.device.type == "cpu" and limit < B * H * T * S:
        spans = []
        for start in range(0, T, _QUERIES):
            rows = mask[start : start + _QUERIES]
            by_all = int(rows.all(0).long().cumprod(0).sum())
            by_any = int((rows.any(0) * torch.arange(1, S + 1)).amax())
            spans.append((slice(start, min(start + _QUERIES, T)), by_all, max(by_any, 1)))
    for t, by_all, by_any in spans:
        count = max(1, limit // ((t.stop - t.start) * by_any))  # heads
        for b in range(0, B, max(1, count // H)):
            for h in range(0, H, min(count, H)):
                yield slice(b, b + max(1, count // H)), slice(h, h + count), t, by_all, by_any


def _heads_side_by_side(x_BHTK: Tensor) -> Tensor:
    """Return memory for a gradient, laid out as the projection that it flows back through."""
    return torch.empty_like(x_BHTK.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)


def _hidden(mask: Tensor | None, b: slice, h: slice, t: slice, seen_by_all: int, seen: int) -> Tensor | None:
    """Return which of a block's keys are hidden, from the first key that some query does not see."""
    if mask is None or seen_by_all == seen:
        return None
    index = [
        i if size > 1 else slice(None) for i, size in zip((b, h, t), _four_axes(mask).shape, strict=False)
    ]
    return ~_four_axes(mask)[(*index, slice(seen_by_all, seen))]


def _four_axes(x: Tensor) -> Tensor:
    """Return `x` with axes of size 1 before the others, or with the first axes merged."""
    return x.flatten(0, -4) if x.ndim > 4 else x[(None,) * (4 - x.ndim)]


def _scores(Q: Tensor, K: Tensor, hidden: Tensor | None) -> Tensor:
    """Return Q K^T / sqrt(d_k) in at least float32, and -inf for keys that are hidden from the query."""
    scores = (at_least_float32(Q) * Q.shape[-1] ** -0.5) @ at_least_float32(K).mT
    if hidden is not None:
        scores[..., scores.shape[-1] - hidden.shape[-1] :].masked_fill_(hidden, -torch.inf)
    return scores


def rope(x_TK: Float[Tensor, "*T K"], tables: tuple[Tensor, Tensor]) -> Float[Tensor, "*T K"]:
    """Rotate pairs as complex numbers, by one product with cosine + i sine, and keep only that factor for the gradient.

    At batch 2 of the tinystories model, this form takes 0.5 ms in place of the formula's 2.0.
    """
    x32, turn_TP = at_least_float32(x_TK), torch.complex(*tables)
    if x32.stride(-1) != 1 or any(s % 2 for s in (*x32.stride()[:-1], x32.storage_offset())):
        x32 = x32.contiguous()
    turned = torch.view_as_complex(x32.view(*x32.shape[:-1], -1, 2)) * turn_TP
    return cast(torch.view_as_real(turned).flatten(-2), x_TK.dtype)
