"""Faults in torch_impl/attention.py: RoPE, attention, its cache and its masks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tests.faults.fault import ATTENTION, DROPOUT, ENCODER, FAMILY, HEADS, PREFIXED, ROPE, fault
from tests.faults.in_torch.modules import with_parts
from torch_impl.dtypes import at_least_float32

Drop = Callable[[Tensor], Tensor] | None


@fault("all layers drop the same", "torch_impl.attention.Context.within", DROPOUT)
def _(within: Any) -> Any:
    return lambda self, place: within(self, "layers.0")


@fault("the cache is off by one slot", "torch_impl.attention.LayerCache.write", HEADS)
def _(write: Any) -> Any:
    def broken(self: Any, k_BHTK: Tensor, v_BHTK: Tensor, slots_BT: Tensor) -> None:
        write(self, k_BHTK, v_BHTK, (slots_BT + 1) % self.k_BHSK.shape[2])

    return broken


@fault("RoPE turns the other way", "torch_impl.attention.rope", ROPE)
def _(rope: Any) -> Any:
    return lambda x, tables: rope(x, (tables[0], -tables[1]))


@fault("RoPE in bfloat16", "torch_impl.attention.rope", ROPE)
def _(rope: Any) -> Any:
    def broken(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        cos, sin = (table.to(x.dtype) for table in tables)
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)

    return broken


SCORES = "torch_impl.attention.scaled_dot_product_attention"


@fault("scores are not scaled", SCORES, ATTENTION)
def _(attention: Any) -> Any:
    return lambda Q, *others: attention(Q * Q.shape[-1] ** 0.5, *others)


def from_scores(attention: Any, scores: Tensor, V: Tensor, mask: Tensor | None, drop: Drop) -> Any:
    """Apply attention to these scores: as queries, to keys that are unit vectors."""
    S = scores.shape[-1]
    return attention(scores * S**0.5, torch.eye(S, dtype=scores.dtype, device=scores.device), V, mask, drop)


@fault("scores are rounded to bfloat16", SCORES, ATTENTION)
def _(attention: Any) -> Any:
    def broken(Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None = None, drop: Drop = None) -> Tensor:
        scores = at_least_float32(Q @ K.mT) * Q.shape[-1] ** -0.5
        return from_scores(attention, scores, V, mask, drop)

    return broken


@fault("the mask adds -1e9", SCORES, ATTENTION)
def _(attention: Any) -> Any:
    def broken(Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None = None, drop: Drop = None) -> Tensor:
        if mask is None:
            return attention(Q, K, V, mask, drop)
        is_read = mask.any(-2)[..., None]
        K, V = torch.where(is_read, K, 0), torch.where(is_read, V, 0)
        scores = at_least_float32(Q) @ at_least_float32(K).mT * Q.shape[-1] ** -0.5
        return from_scores(attention, scores + torch.where(mask, 0.0, -1e9), V, None, drop)

    return broken


@fault("weights sum to one over the queries", SCORES, ATTENTION)
def _(attention: Any) -> Any:
    def broken(Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None = None, drop: Drop = None) -> Tensor:
        def over_queries(weights: Tensor) -> Tensor:
            tiny = torch.finfo(weights.dtype).tiny
            exp = weights / weights.amax(-1, keepdim=True).clamp(min=tiny)
            weights = exp / exp.sum(-2, keepdim=True).clamp(min=tiny)
            return drop(weights) if drop else weights

        return attention(Q, K, V, mask, over_queries)

    return broken


@fault("a query that sees nothing divides by zero", SCORES, ATTENTION)
def _(attention: Any) -> Any:
    def broken(Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None = None, drop: Drop = None) -> Tensor:
        def divide(weights: Tensor) -> Tensor:
            weights = weights / weights.sum(-1, keepdim=True)
            return drop(weights) if drop else weights

        return attention(Q, K, V, mask, divide)

    return broken


@fault("query heads share keys in the wrong order", "torch_impl.attention.grouped_query_attention", HEADS)
def _(grouped_query_attention: Any) -> Any:
    def broken(q_BHTK: Tensor, k_BGSK: Tensor, *others: Any) -> Tensor:
        q_BHTK = q_BHTK.unflatten(-3, (-1, k_BGSK.shape[-3])).transpose(-3, -4).flatten(-4, -3)
        return grouped_query_attention(q_BHTK, k_BGSK, *others)

    return broken


@fault("heads interleave in the projections", "torch_impl.attention.MultiHeadSelfAttention.forward", HEADS)
def _(forward: Any) -> Any:
    def broken(self: Any, *args: Any) -> Tensor:
        def interleaved(projection: Any) -> Any:
            return lambda x: projection(x).unflatten(-1, (self.d_head, -1)).mT.flatten(-2)

        names = ("q_proj", "k_proj", "v_proj")
        return forward(with_parts(self, **{name: interleaved(getattr(self, name)) for name in names}), *args)

    return broken


@fault(
    "queries are normalised after they are turned",
    "torch_impl.attention.MultiHeadSelfAttention.forward",
    FAMILY,
)
def _(forward: Any) -> Any:
    def broken(self: Any, x_BTD: Tensor, context: Any, cache: Any = None) -> Tensor:
        from torch_impl.attention import rope

        if context.rope is None:
            return forward(self, x_BTD, context, cache)
        turned_first = with_parts(
            self,
            q_norm=lambda q_BHTK: self.q_norm(rope(q_BHTK, context.rope)),
            k_norm=lambda k_BHTK: self.k_norm(rope(k_BHTK, context.rope)),
        )
        return forward(turned_first, x_BTD, replace(context, rope=None), cache)

    return broken


@fault("a token does not see itself", "torch_impl.attention.causal_mask", ATTENTION)
def _(causal_mask: Any) -> Any:
    return lambda *args: causal_mask(*args).tril(-1)


@fault("an encoder attends to the first padding", "torch_impl.attention.padding_mask", ENCODER)
def _(padding_mask: Any) -> Any:
    return lambda num_tokens_B, T: padding_mask(num_tokens_B + 1, T)


@fault(
    "the hidden cache attends to what came before only",
    "torch_impl.attention.prefix_mask",
    PREFIXED,
)
def _(prefix_mask: Any) -> Any:
    def broken(num_tokens_B: Tensor, P: int, T: int) -> Tensor:
        place_S = torch.arange(P + T, device=num_tokens_B.device)
        came_before_SS = place_S <= place_S[:, None]
        return prefix_mask(num_tokens_B, P, T) & (came_before_SS | (place_S[:, None] >= P))

    return broken
