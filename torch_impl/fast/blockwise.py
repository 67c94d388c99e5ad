"""Attention block by block, with a running maximum and sum: memory grows with the context, not with its square."""

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from torch_impl.dtypes import Dtype, at_least_float32
from torch_impl.fast.gradients import cast, differentiable_once
from torch_impl.fast.tiles import Plan, Tile, hide


class Blockwise(Function):
    """softmax(Q K^T / sqrt(d_k)) V, tile by tile (Dao et al., 2022, algorithms 1 and 2).

    It keeps the largest score and the sum of each query. The gradient computes the scores again. The scores of a block
    stay in the processor's cache. They are logarithms to base 2: `exp2` takes a third of the time of `exp`. On a GPU,
    the factors of products stay in bfloat16 (`factors`); scores, weights and sums are float32 there, too.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q_BHTK: Float[Tensor, "B H T K"],
        k_BGSK: Float[Tensor, "B G S K"],
        v_BGSV: Float[Tensor, "B G S V"],
        plan: Plan,
        drop: Any,
        cap: float | None,
    ) -> Float[Tensor, "B H T V"]:
        cap = None if cap is None else cap * math.log2(math.e)
        scale = q_BHTK.shape[-1] ** -0.5 * math.log2(math.e)
        queries = q_BHTK.unflatten(1, (k_BGSK.shape[1], -1))
        keys, values = _rows(k_BGSK), _rows(v_BGSV)
        sums_type = torch.promote_types(values.dtype, torch.float32)
        out_BHTV = _side_by_side((*q_BHTK.shape[:3], v_BGSV.shape[-1]), values, sums_type)
        out = out_BHTV.unflatten(1, queries.shape[1:3])
        largest, total = (out_BHTV.new_empty(*queries.shape[:-1], 1) for _ in range(2))
        for tile in plan.tiles:
            q = scaled(tile.cut(queries), scale).flatten(2, 3).flatten(0, 1)
            top = largest.new_full((*q.shape[:2], 1), torch.finfo(largest.dtype).min)
            sums, mixed = torch.zeros_like(top), top.new_zeros(*q.shape[:2], values.shape[-1])
            for s, limits in tile.keys:
                scores = scores_of(q, keys[tile.rows, s], scale)
                if cap is not None:
                    softcap_(scores, cap)
                hide(scores, limits)
                kept = None if drop is None else _kept(drop, tile, s, queries, keys)
                top = _add_block(scores, values[tile.rows, s], kept, top, sums, mixed)
            # A query that may attend to nothing yields zeros: their sum is taken to be 1.
            mixed.div_(sums.masked_fill_(sums == 0.0, 1.0))
            for of_all, of_tile in ((out, mixed), (largest, top), (total, sums)):
                part = tile.cut(of_all)
                part.copy_(of_tile.view(part.shape))
        # The gradient's mean of an output that was rounded to bfloat16 would be off by more than the gradients may be.
        ctx.save_for_backward(q_BHTK, k_BGSK, v_BGSV, out_BHTV, largest, total)
        ctx.plan, ctx.drop, ctx.cap = plan, drop, cap
        return cast(out_BHTV, v_BGSV.dtype)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g_BHTV: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        q_BHTK, k_BGSK, v_BGSV, out_BHTV, largest, total = ctx.saved_tensors
        queries, out, g_out = (x.unflatten(1, largest.shape[1:3]) for x in (q_BHTK, out_BHTV, g_BHTV))
        keys, values = _rows(k_BGSK), _rows(v_BGSV)
        # A product adds to whole arrays faster than to parts of them.
        d_keys, d_values = (
            {s.start: total.new_zeros(len(x), s.stop - s.start, x.shape[-1]) for s in ctx.plan.keys}
            for x in (keys, values)
        )
        K, V = keys.shape[-1], values.shape[-1]
        scale = K**-0.5 * math.log2(math.e)
        # A column of ones adds the last column of the queries, and of the flow, to all products of a row. What it adds
        # must not be rounded to bfloat16.
        has_columns = keys.dtype == total.dtype
        if has_columns:
            keys, values = (torch.cat((x, torch.ones_like(x[..., :1])), -1) for x in (keys, values))
        d_q_BHTK = _side_by_side(q_BHTK.shape, q_BHTK)
        d_queries = d_q_BHTK.unflatten(1, largest.shape[1:3])
        for tile in ctx.plan.tiles:
            q = scaled(tile.cut(queries), scale).flatten(2, 3).flatten(0, 1)
            lowered = -tile.cut(largest).reshape(*q.shape[:2], 1)
            flow, mean = _flow(tile, g_out, out, total, values.dtype)
            d_q = total.new_zeros(q.shape)
            if has_columns:
                q, flow = torch.cat((q, lowered), -1), torch.cat((flow, -mean), -1)
            for s, limits in tile.keys:
                k, v, slope = keys[tile.rows, s], values[tile.rows, s], None
                if has_columns and ctx.cap is None:
                    scores = torch.bmm(q, k.mT)
                else:
                    scores = scores_of(q[..., :K], k[..., :K], scale)
                    slope = None if ctx.cap is None else softcap_(scores, ctx.cap)
                    scores.add_(lowered)
                weights = hide(scores, limits).exp2_()
                d_scores, dropped = product(flow, v.mT), weights
                if ctx.drop is not None:
                    kept = _kept(ctx.drop, tile, s, queries, keys)
                    d_scores = (d_scores.add_(mean) if has_columns else d_scores).mul_(kept)
                    dropped = weights * kept
                if ctx.drop is not None or not has_columns:
                    d_scores.sub_(mean)
                _add_product(d_values[s.start][tile.rows], dropped.mT, flow[..., :V])
                d_scores.mul_(weights)
                if slope is not None:
                    d_scores.mul_(slope)
                d_scores = cast(d_scores, keys.dtype)
                _add_product(d_keys[s.start][tile.rows], d_scores.mT, q[..., :K])
                _add_product(d_q, d_scores, k[..., :K])
            part = tile.cut(d_queries)
            part.copy_(d_q.mul_(queries.shape[-1] ** -0.5).view(part.shape))
        d_k_BGSK, d_v_BGSV = (_side_by_side(x.shape, x) for x in (k_BGSK, v_BGSV))
        of_keys = math.log(2) if has_columns else K**-0.5
        for s in ctx.plan.keys:
            for whole, parts, factor in ((d_k_BGSK, d_keys, of_keys), (d_v_BGSV, d_values, 1.0)):
                part = whole[:, :, s]
                part.copy_(parts.pop(s.start).mul_(factor).view(part.shape))
        return d_q_BHTK, d_k_BGSK, d_v_BGSV, None, None, None


def softcap_(scores: Float[Tensor, "N Q S"], cap: float) -> Float[Tensor, "N Q S"]:
    """Replace scores by cap tanh(scores / cap), in place, and return the slope 1 - tanh(scores / cap)^2."""
    slope = scores.div_(cap).tanh_().square().neg_().add_(1.0)
    scores.mul_(cap)
    return slope


def _add_block(
    scores: Float[Tensor, "N Q S"],
    values: Float[Tensor, "N S V"],
    kept: Float[Tensor, "N Q S"] | None,
    top: Float[Tensor, "N Q 1"],
    sums: Float[Tensor, "N Q 1"],
    mixed: Float[Tensor, "N Q V"],
) -> Float[Tensor, "N Q 1"]:
    """Add a block of keys to the running sums and mixed values, in place, and return the new running maximum."""
    higher = torch.maximum(top, scores.amax(-1, keepdim=True))
    weights, shrink = scores.sub_(higher).exp2_(), top.sub_(higher).exp2_()
    sums.mul_(shrink).add_(weights.sum(-1, keepdim=True))
    if kept is not None:
        weights.mul_(kept)
    _add_product(mixed.mul_(shrink), weights, values)
    return higher


def _flow(
    tile: Tile,
    g_out: Float[Tensor, "B G R T V"],
    out: Float[Tensor, "B G R T V"],
    total: Float[Tensor, "B G R T 1"],
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "N Q V"], Float[Tensor, "N Q 1"]]:
    """Return a tile's incoming gradient over the weights' sum, in `dtype`, and its product with the output.

    That product is the mean of the weights' gradients. The weights are exponentials that nothing divides by their sum.
    """
    flow = cast(at_least_float32(tile.cut(g_out)) / tile.cut(total), dtype)
    mean = (at_least_float32(flow) * tile.cut(out)).sum(-1, keepdim=True)
    rows = -1, flow.shape[2] * flow.shape[3]
    return flow.reshape(*rows, flow.shape[4]), mean.reshape(*rows, 1)


def _side_by_side(shape: tuple[int, ...], like: Tensor, dtype: Dtype = None) -> Float[Tensor, "B H T K"]:
    """Return memory whose heads lie side by side, as the projections before and after attention have them."""
    B, H, T, K = shape
    return like.new_empty(B, T, H, K, dtype=dtype or like.dtype).transpose(1, 2)


def _rows(x_BGSK: Float[Tensor, "B G S K"]) -> Float[Tensor, "N S K"]:
    """Return keys or values with one axis for sequences and heads."""
    return factors(x_BGSK).contiguous().flatten(0, 1)


def factors(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return what a product multiplies: on a CPU in at least float32, on a GPU as it is.

    A GPU's tensor cores multiply bfloat16 exactly and add in float32. An H100's data sheet has fifteen times the rate.
    """
    return at_least_float32(x) if x.is_cpu else x


def product(a: Float[Tensor, "N I J"], b: Float[Tensor, "N J K"]) -> Float[Tensor, "N I K"]:
    """Multiply factors of the type of `b`, and add in at least float32."""
    if b.dtype.itemsize >= 4:
        return torch.bmm(a, b)
    return torch.bmm(cast(a, b.dtype), b, out_dtype=torch.float32)


def _add_product(sums: Float[Tensor, "N I K"], a: Float[Tensor, "N I J"], b: Float[Tensor, "N J K"]) -> None:
    """Add a product to sums, in place."""
    if b.dtype == sums.dtype:
        sums.baddbmm_(a, b)
    else:
        sums.add_(product(a, b))


def scaled(q: Float[Tensor, "*N K"], scale: float) -> Float[Tensor, "*N K"]:
    """Return queries as factors, times `scale`, unless that would round them: then `scores_of` multiplies."""
    q = factors(q)
    return q * scale if q.dtype.itemsize >= 4 else q


def scores_of(
    q: Float[Tensor, "N Q K"], keys: Float[Tensor, "N S K"], scale: float
) -> Float[Tensor, "N Q S"]:
    """Return the products of keys with queries from `scaled`."""
    scores = product(q, keys.mT)
    return scores if q.dtype.itemsize >= 4 else scores.mul_(scale)


def _kept(
    drop: Any, tile: Tile, s: slice, queries: Float[Tensor, "B G R T K"], keys: Float[Tensor, "N S _"]
) -> Float[Tensor, "_N _Q _S"]:
    """Return what dropout multiplies a block's weights by: `drop` is a `torch_impl.functional.Dropout`."""
    R, T, S = *queries.shape[2:4], keys.shape[1]
    h, t, s_ = (
        torch.arange(i.start, i.stop, dtype=torch.int32, device=keys.device)
        for i in (slice(tile.g.start * R, tile.g.stop * R), tile.t, s)
    )
    elements = (h[:, None, None] * T + t[:, None]) * S + s_
    of_tile = replace(drop, key=replace(drop.key, rows_B=drop.key.rows_B[tile.b]))
    kept = of_tile.mask(elements).to(torch.promote_types(keys.dtype, torch.float32)).mul_(1 / (1 - drop.rate))
    return kept.view(-1, R * len(t), len(s_))
