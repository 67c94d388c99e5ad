"""Faults in torch_impl/fast/attention.py."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.faults.fault import ATTENTION, FAMILY, FUSED, HEADS, ROPE, fault
from torch_impl.dtypes import at_least_float32


@fault("decoding sees what is hidden", "torch_impl.fast.attention.single_query_attention", HEADS)
def _(single_query_attention: Any) -> Any:
    def broken(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, mask: Tensor | None, *others: Any) -> Any:
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


def without_mean(Q: Tensor, K: Tensor, V: Tensor, hidden: Tensor | None) -> Tensor:
    """Attend. The gradient of the scores is weights * d_weights, not weights * (d_weights - mean)."""
    scores = at_least_float32(Q) @ at_least_float32(K).mT * Q.shape[-1] ** -0.5
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    log_sum = torch.logsumexp(scores, -1, keepdim=True).detach().clamp(min=torch.finfo(scores.dtype).min)
    return torch.exp(scores - log_sum).to(V.dtype) @ V


@fault(
    "the gradient of few scores lacks the softmax's mean",
    "torch_impl.fast.attention.SmallAttention",
    ATTENTION,
)
def _(function: Any) -> Any:
    return SimpleNamespace(forward=function.forward, apply=without_mean)


@fault("the gradient of scores lacks the softmax's mean", "torch_impl.fast.attention.Attention", ATTENTION)
def _(function: Any) -> Any:
    def apply(Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return without_mean(Q, K, V, None)
        unread = ~mask.any(-2)[..., None]
        return without_mean(Q, K.masked_fill(unread, 0), V.masked_fill(unread, 0), ~mask)

    return SimpleNamespace(forward=function.forward, apply=apply)


@fault("keys of a block of queries end too soon", "torch_impl.fast.attention._attention_blocks", FUSED)
def _(attention_blocks: Any) -> Any:
    def broken(Q: Tensor, K: Tensor, mask: Tensor | None) -> Iterator[tuple[slice, slice, slice, int, int]]:
        for b, h, t, seen_by_all, seen in attention_blocks(Q, K, mask):
            all_queries = t == slice(0, Q.shape[2])
            yield b, h, t, seen_by_all, seen if all_queries else max(seen - 1, 1)

    return broken


@fault("the fast RoPE turns the other way", "torch_impl.fast.attention.rope", ROPE)
def _(rope: Any) -> Any:
    return lambda x, tables: rope(x, (tables[0], -tables[1]))
