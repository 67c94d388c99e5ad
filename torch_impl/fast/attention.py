"""Faster forms of attention and of RoPE. docs/benchmarks.md has the measurements."""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd import Function

from torch_impl.dtypes import at_least_float32
from torch_impl.fast.blocks import ROWS_BLOCK, ROWS_BLOCK_GPU
from torch_impl.fast.blockwise import Blockwise, factors, scaled, scores_of, softcap_
from torch_impl.fast.gradients import apply, cast, differentiable_once
from torch_impl.fast.masks import Mask
from torch_impl.fast.tiles import Plan, hide, make_plan

QUERIES = 128
"""Queries in a block of scores."""
KEYS = 128
"""Keys in a block of scores."""
BLOCK_GPU = 512, 512
"""Queries and keys in a block on a GPU, where an operation takes at least the time of its call. Nobody has measured it:
the part `attention blocks` of `python -m bench gpu` does."""
Drop = Any
"""A `torch_impl.functional.Dropout`. That module imports this one."""


def grouped_query_attention(
    q_BHTK: Float[Tensor, "*B H T K"],
    k_BGSK: Float[Tensor, "*B G S K"],
    v_BGSK: Float[Tensor, "*B G S K"],
    mask: Mask | Bool[Tensor, "*M T S"] | None,
    drop: Drop | None = None,
    cap: float | None = None,
) -> Any:
    """Attend by `single_query_attention` in a decode step, and otherwise block by block."""
    if q_BHTK.ndim != 4 or (isinstance(mask, Tensor) and mask.ndim > 2 and mask.shape[-3] > 1):
        return NotImplemented
    if q_BHTK.shape[2] == 1 and drop is None and not torch.is_grad_enabled():
        return single_query_attention(q_BHTK, k_BGSK, v_BGSK, mask, cap)
    if isinstance(mask, Tensor):
        mask = mask.reshape(-1, *mask.shape[-2:])
    return _attend(q_BHTK, k_BGSK, v_BGSK, mask, drop, cap)


def single_query_attention(
    q_BHTK: Float[Tensor, "B H T K"],
    k_BGSK: Float[Tensor, "B G S K"],
    v_BGSK: Float[Tensor, "B G S K"],
    mask: Mask | Bool[Tensor, "*M T S"] | None,
    cap: float | None,
) -> Float[Tensor, "B H T K"]:
    """Attend with one query a sequence, without a gradient: a decode step.

    This form takes a third of the formula's operations; so small an operation takes the time of its call. All keys and
    values must be finite, even those that the mask hides: a slot of a cache holds an old key until it is written.
    """
    (B, H, _, K), (G, S) = q_BHTK.shape, k_BGSK.shape[1:3]
    keys_NSK = factors(k_BGSK).flatten(0, 1)
    q_NRK = scaled(q_BHTK, K**-0.5).reshape(B * G, H // G, K)
    scores_NRS = scores_of(q_NRK, keys_NSK, K**-0.5)
    if cap is not None:
        scores_NRS.div_(cap).tanh_().mul_(cap)
    if mask is not None:
        pairs = mask if isinstance(mask, Tensor) else mask.pairs(S)
        scores_NRS.view(B, H, 1, S).masked_fill_(~pairs, -torch.inf)
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
    cap: float | None = None,
) -> Any:
    """Attend block by block. The first leading axis counts sequences, and the others count heads."""
    lead = Q.shape[:-2]
    B = lead[0] if lead else 1
    if mask is not None:
        of_each = (1,) * (len(lead) + 2 - mask.ndim) + mask.shape[:-2]
        if any(size > 1 for size in of_each[1:]):  # Heads have masks of their own, as sequences do.
            B, mask = lead.numel(), mask.expand(*lead, -1, -1)
        mask = mask.reshape(-1, *mask.shape[-2:])
    if drop is not None and lead[:1] != (B,):
        return NotImplemented
    q_BHTK, k_BHSK, v_BHSV = (x.reshape(B, -1, *x.shape[-2:]) for x in (Q, K, V))
    return _attend(q_BHTK, k_BHSK, v_BHSV, mask, drop, cap).reshape(*Q.shape[:-1], V.shape[-1])


_plans: WeakKeyDictionary[Mask, tuple[Any, Plan]] = WeakKeyDictionary()
"""Plans by mask: the layers of a model share one mask."""


def _attend(
    q_BHTK: Float[Tensor, "B H T K"],
    k_BGSK: Float[Tensor, "B G S K"],
    v_BGSV: Float[Tensor, "B G S V"],
    mask: Mask | Bool[Tensor, "#B T S"] | None,
    drop: Drop | None,
    cap: float | None,
) -> Float[Tensor, "B H T V"]:
    """Attend by `OneBlock` if all scores fit one block, and otherwise by `Blockwise`."""
    (B, H, T, _), (G, S) = q_BHTK.shape, k_BGSK.shape[1:3]
    on_cpu, dtype = q_BHTK.device.type == "cpu", torch.promote_types(q_BHTK.dtype, torch.float32)
    block = ((QUERIES, KEYS), ROWS_BLOCK) if on_cpu else (BLOCK_GPU, ROWS_BLOCK_GPU)
    sizes = (B, G, H // G, T, S), *block, dtype
    ranges = None if isinstance(mask, Tensor) else mask
    planned, plan = _plans.get(ranges, (None, None)) if ranges else (None, None)
    if plan is None or planned != sizes:
        plan = make_plan(mask, *sizes, q_BHTK.device)
        if ranges:
            _plans[ranges] = sizes, plan
    if plan.unread_BS is not None:
        hidden = plan.unread_BS[:, None, :, None]
        k_BGSK, v_BGSV = k_BGSK.masked_fill(hidden, 0), v_BGSV.masked_fill(hidden, 0)
    tiles = plan.tiles
    if on_cpu and drop is None and dtype == q_BHTK.dtype and len(tiles) == 1 and len(tiles[0].keys) == 1:
        return apply(OneBlock, q_BHTK, k_BGSK, v_BGSV, tiles[0].keys[0][1], cap)
    return apply(Blockwise, q_BHTK, k_BGSK, v_BGSV, plan, drop, cap)


class OneBlock(Function):
    """softmax(Q K^T / sqrt(d_k)) V with all scores at once, which are kept for the gradient.

    It takes a third of the operations of `Blockwise`. For small arrays, an operation takes the time of its call.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q_BHTK: Float[Tensor, "B H T K"],
        k_BGSK: Float[Tensor, "B G S K"],
        v_BGSV: Float[Tensor, "B G S V"],
        limits: Float[Tensor, "#B 1 T S"] | None,
        cap: float | None,
    ) -> Float[Tensor, "B H T V"]:
        (B, H, T, K), G = q_BHTK.shape, k_BGSK.shape[1]
        Q, K_, V = q_BHTK.reshape(B * G, -1, K), k_BGSK.flatten(0, 1), v_BGSV.flatten(0, 1)
        scores = torch.baddbmm(Q.new_zeros(()), Q, K_.mT, beta=0, alpha=K**-0.5)
        slope = None if cap is None else softcap_(scores, cap)
        hide(scores, limits)
        # A query that may attend to nothing yields zeros: their sum is taken to be the smallest number.
        least = torch.finfo(scores.dtype)
        weights = scores.sub_(scores.amax(-1, keepdim=True).clamp_(min=least.min)).exp_()
        weights.div_(weights.sum(-1, keepdim=True).clamp_(min=least.tiny))
        ctx.save_for_backward(Q, K_, V, weights, slope)
        return torch.bmm(weights, V).view(B, H, T, -1)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g_BHTV: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        Q, K, V, weights, slope = ctx.saved_tensors
        g, (B, H, T, _) = g_BHTV.reshape(*Q.shape[:2], -1), g_BHTV.shape
        d_weights = torch.bmm(g, V.mT)
        mean = torch.linalg.vecdot(d_weights, weights)[..., None]
        d_scores = d_weights.sub_(mean).mul_(weights).mul_(Q.shape[-1] ** -0.5)
        if slope is not None:
            d_scores.mul_(slope)
        d_K, d_V = torch.bmm(d_scores.mT, Q), torch.bmm(weights.mT, g)
        d_K, d_V = (x.unflatten(0, (B, -1)) for x in (d_K, d_V))
        return torch.bmm(d_scores, K).view(B, H, T, -1), d_K, d_V, None, None


def rope(x_TK: Float[Tensor, "*T K"], tables: tuple[Tensor, Tensor]) -> Float[Tensor, "*T K"]:
    """Rotate pairs as complex numbers, by one product with cosine + i sine, and keep only that factor for the gradient.

    At batch 2 of the tinystories model, this form takes 0.5 ms in place of the formula's 2.0.
    """
    x32, turn_TP = at_least_float32(x_TK), torch.complex(*tables)
    if x32.stride(-1) != 1 or any(s % 2 for s in (*x32.stride()[:-1], x32.storage_offset())):
        x32 = x32.contiguous()
    turned = torch.view_as_complex(x32.view(*x32.shape[:-1], -1, 2)) * turn_TP
    return cast(torch.view_as_real(turned).flatten(-2), x_TK.dtype)
