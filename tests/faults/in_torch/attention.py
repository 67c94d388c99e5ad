"""Faults in torch_impl/attention.py: RoPE, attention, its cache and its masks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tests.faults.fault import (
    ATTENTION,
    CACHED,
    DROPOUT,
    ENCODER,
    FAMILY,
    HEADS,
    PREFIXED,
    ROPE,
    SOFTCAP,
    WINDOWS,
    fault,
    inside,
)
from tests.faults.in_torch.modules import with_parts
from torch_impl.dtypes import at_least_float32


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


def _attention(
    score: Callable[[Tensor, Tensor], Tensor] = lambda Q, K: at_least_float32(Q) @ at_least_float32(K).mT,
    hide: Callable[[Tensor, Tensor], Tensor] = lambda scores, mask: torch.where(mask, scores, -torch.inf),
    divide: Callable[[Tensor], Tensor] = lambda exp: exp / exp.sum(-1, keepdim=True).clamp(min=_tiny(exp)),
) -> Any:
    """Return the formula of attention with one part of it replaced."""

    def broken(
        Q: Tensor,
        K: Tensor,
        V: Tensor,
        mask: Tensor | None = None,
        drop: Any = None,
        cap: float | None = None,
    ) -> Tensor:
        if mask is not None:
            is_read = mask.any(-2)[..., None]
            K, V = torch.where(is_read, K, 0), torch.where(is_read, V, 0)
        scores = at_least_float32(score(Q, K)) * Q.shape[-1] ** -0.5
        if mask is not None:
            scores = hide(scores, mask)
        largest = scores.amax(-1, keepdim=True).detach()
        weights = divide(torch.exp(scores - torch.where(largest == -torch.inf, 0.0, largest)))
        return (weights if drop is None else drop(weights)).to(V.dtype) @ V

    return broken


def _tiny(x: Tensor) -> float:
    return torch.finfo(x.dtype).tiny


@fault("scores are rounded to bfloat16", SCORES, ATTENTION)
def _(attention: Any) -> Any:
    return _attention(score=lambda Q, K: Q @ K.mT)


@fault("the mask adds -1e9", SCORES, ATTENTION)
def _(attention: Any) -> Any:
    return _attention(hide=lambda scores, mask: scores + torch.where(mask, 0.0, -1e9))


@fault("weights sum to one over the queries", SCORES, ATTENTION)
def _(attention: Any) -> Any:
    return _attention(divide=lambda exp: exp / exp.sum(-2, keepdim=True).clamp(min=_tiny(exp)))


@fault("a query that sees nothing divides by zero", SCORES, ATTENTION)
def _(attention: Any) -> Any:
    return _attention(divide=lambda exp: exp / exp.sum(-1, keepdim=True))


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


@fault("a token does not see itself", "torch_impl.masks.causal_mask", ATTENTION)
def _(causal_mask: Any) -> Any:
    def broken(*args: Any) -> Any:
        mask = causal_mask(*args)
        return replace(mask, last_T=mask.last_T - 1)

    return broken


@fault("an encoder attends to the first padding", "torch_impl.masks.padding_mask", ENCODER)
def _(padding_mask: Any) -> Any:
    return lambda num_tokens_B, T: padding_mask(num_tokens_B + 1, T)


@fault(
    "the hidden cache attends to what came before only",
    "torch_impl.masks.prefix_mask",
    PREFIXED,
)
def _(prefix_mask: Any) -> Any:
    def broken(num_tokens_B: Tensor, P: int, T: int) -> Any:
        mask = prefix_mask(num_tokens_B, P, T)
        return replace(mask, last_T=torch.arange(P + T).expand_as(mask.last_T))

    return broken


@fault("torch's window has a key too many", "torch_impl.masks.causal_mask", WINDOWS)
def _(causal_mask: Any) -> Any:
    def broken(T: int, device: Any = None, window: int | None = None) -> Any:
        return causal_mask(T, device, window and window + 1)

    return broken


@fault("torch's window goes beyond the start of a document", "torch_impl.masks.document_mask", WINDOWS)
def _(document_mask: Any) -> Any:
    def broken(start_BT: Tensor, window: int | None = None) -> Any:
        return document_mask(torch.zeros_like(start_BT) if window else start_BT, window)

    return broken


@fault("torch caps scores before it scales them", SCORES, SOFTCAP)
def _(attention: Any) -> Any:
    def broken(
        Q: Tensor, K: Tensor, V: Tensor, mask: Any = None, drop: Any = None, cap: Any = None
    ) -> Tensor:
        return attention(Q, K, V, mask, drop, cap and cap * Q.shape[-1] ** -0.5)

    return broken


@fault("torch caps scores after it masks them", SCORES, SOFTCAP)
def _(attention: Any) -> Any:
    """A masked key then has the score -cap."""

    def broken(
        Q: Tensor, K: Tensor, V: Tensor, mask: Any = None, drop: Any = None, cap: Any = None
    ) -> Tensor:
        if mask is None or cap is None:
            return attention(Q, K, V, mask, drop, cap)
        scores = at_least_float32(Q) @ at_least_float32(K).mT * Q.shape[-1] ** -0.5
        capped = cap * torch.tanh(torch.where(mask, scores, -torch.inf) / cap)
        return capped.softmax(-1).to(V.dtype) @ V

    return broken


MULTIHEAD = "torch_impl.attention.MultiHeadSelfAttention"


@fault("torch's norms of queries and keys forget the 1", f"{MULTIHEAD}.__init__", HEADS)
def _(init: Any) -> Any:
    return lambda self, *args, **options: init(self, *args, **options | {"norm_offset": 0.0})


@fault("torch normalises each head in place of all heads", f"{MULTIHEAD}.forward", HEADS)
def _(forward: Any) -> Any:
    def broken(self: Any, *args: Any) -> Tensor:
        if self.qk_norm_over == "head":
            return forward(self, *args)

        def each_head(norm: Any) -> Any:
            def normalise(x: Tensor) -> Tensor:
                heads = x.unflatten(-1, (-1, self.d_head))
                inverse_rms = torch.rsqrt(heads.square().mean(-1, keepdim=True) + norm.eps)
                return (heads * inverse_rms).flatten(-2) * (norm.offset + norm.weight)

            return normalise

        return forward(with_parts(self, q_norm=each_head(self.q_norm), k_norm=each_head(self.k_norm)), *args)

    return broken


@fault("torch's keys take the queries' factor", f"{MULTIHEAD}.forward", HEADS)
def _(forward: Any) -> Any:
    def broken(self: Any, *args: Any) -> Tensor:
        def scaled(attend: Any) -> Any:
            return lambda q, k, *rest: attend(q, k * self.query_factor, *rest)

        return inside("torch_impl.attention.grouped_query_attention", scaled, forward)(self, *args)

    return broken


@fault("torch's prompts fill the ring from its second slot", "torch_impl.attention.LayerCache.fill", CACHED)
def _(fill: Any) -> Any:
    return lambda self, k_BHTK, v_BHTK, kept_BS: fill(self, k_BHTK, v_BHTK, kept_BS.roll(1, -1))
