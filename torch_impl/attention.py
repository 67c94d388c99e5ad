"""Rotary positions, scaled dot-product attention, and multi-head self-attention with and without a cache."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lm.config.model import QKNormOver
from torch_impl import fast
from torch_impl.dtypes import Device, Dtype, at_least_float32
from torch_impl.functional import Dropout, DropoutKey, softcap
from torch_impl.layers import Identity, Linear, RMSNorm
from torch_impl.masks import Mask

Rope = tuple[Float[Tensor, "... P"], Float[Tensor, "... P"]]
"""Cosines and sines of the positions (`lm.init.rope_tables`), P = d_head / 2."""


@dataclass(frozen=True)
class Context:
    """What all blocks of a forward pass share, or all of one type of layers."""

    mask: Mask | Bool[Tensor, "*M T S"] | None
    """The keys that a query may attend to, or True if it may; without a mask every query attends to every key."""
    rope: Rope | None = None
    """RoPE's tables, which broadcast against (B, H, T, P); None if the model does not rotate."""
    slots_BT: Int[Tensor, "B T"] | None = None
    """In a decode step: the slots of the cache that take the new keys."""
    kept_BS: Int[Tensor, "B S"] | None = None
    """In a pass over prompts that fills a cache: the place in the prompt of the key that each slot takes."""
    key: DropoutKey | None = None
    """What training drops; None outside training."""

    def within(self, place: str) -> "Context":
        """Return the context of a place in the model, such as a layer: dropout depends on the place."""
        return replace(self, key=self.key.within(place)) if self.key else self


@dataclass
class LayerCache:
    """Keys and values of one layer, of num_kv_heads heads, in S slots (`lm.text.rings`)."""

    k_BHSK: Float[Tensor, "B H S K"]
    v_BHSK: Float[Tensor, "B H S K"]

    def write(
        self,
        k_BHTK: Float[Tensor, "B H T K"],
        v_BHTK: Float[Tensor, "B H T K"],
        slots_BT: Int[Tensor, "B T"],
    ) -> None:
        """Store the new keys and values in their slots."""
        rows_B1 = torch.arange(len(slots_BT), device=slots_BT.device)[:, None]
        self.k_BHSK[rows_B1, :, slots_BT] = k_BHTK.transpose(1, 2)
        self.v_BHSK[rows_B1, :, slots_BT] = v_BHTK.transpose(1, 2)

    def fill(
        self,
        k_BHTK: Float[Tensor, "B H T K"],
        v_BHTK: Float[Tensor, "B H T K"],
        kept_BS: Int[Tensor, "B S"],
    ) -> None:
        """Store in each slot the key and the value of one place."""
        T = k_BHTK.shape[2]
        if kept_BS.shape[1] >= T:  # no ring wraps: each place has its slot
            self.k_BHSK[:, :, :T], self.v_BHSK[:, :, :T] = k_BHTK, v_BHTK
            return
        rows_B1 = torch.arange(len(kept_BS), device=kept_BS.device)[:, None]
        self.k_BHSK.copy_(k_BHTK.transpose(1, 2)[rows_B1, kept_BS].transpose(1, 2))
        self.v_BHSK.copy_(v_BHTK.transpose(1, 2)[rows_B1, kept_BS].transpose(1, 2))


@fast.path(fast.rope)
def rope(x_TK: Float[Tensor, "*T K"], tables: Rope) -> Float[Tensor, "*T K"]:
    """Rotate the pairs (x[2p], x[2p + 1]) by their position's angle (Su et al., 2021, eq. 34).

    The tables' leading dimensions broadcast against those of x.
    """
    cos_TP, sin_TP = tables
    even_TP, odd_TP = at_least_float32(x_TK).unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack((even_TP * cos_TP - odd_TP * sin_TP, even_TP * sin_TP + odd_TP * cos_TP), dim=-1)
    return rotated.flatten(-2).to(x_TK.dtype)


@fast.path(fast.scaled_dot_product_attention)
def scaled_dot_product_attention(
    Q: Float[Tensor, "*B T K"],
    K: Float[Tensor, "*B S K"],
    V: Float[Tensor, "*B S V"],
    mask: Bool[Tensor, "... T S"] | None = None,
    drop: Dropout | None = None,
    cap: float | None = None,
) -> Float[Tensor, "*B T V"]:
    """softmax(Q K^T / sqrt(d_k)) V (Vaswani et al., 2017, eq. 1).

    Args:
        mask: True if the query may attend to the key; broadcasts against (*B, T, S). A query that may
            attend to nothing yields zeros with zero gradients. A key and value that no query may attend to
            are not read, whatever they hold, NaN included.
        drop: What training does to the attention weights.
        cap: Bound of the scores' `softcap`; by default scores have no bound.
    """
    if mask is not None:
        is_read = mask.any(-2)[..., None]
        K, V = torch.where(is_read, K, 0), torch.where(is_read, V, 0)
    scores = at_least_float32(Q) @ at_least_float32(K).mT * Q.shape[-1] ** -0.5
    if cap is not None:
        scores = softcap(scores, cap)
    if mask is not None:
        scores = torch.where(mask, scores, -torch.inf)
    largest = scores.amax(-1, keepdim=True).detach()
    exp = torch.exp(scores - torch.where(largest == -torch.inf, 0.0, largest))
    total = exp.sum(-1, keepdim=True)
    weights = exp / torch.where(total == 0.0, 1.0, total)
    if drop is not None:
        weights = drop(weights)
    return weights.to(V.dtype) @ V


@fast.path(fast.grouped_query_attention)
def grouped_query_attention(
    q_BHTK: Float[Tensor, "*B H T K"],
    k_BGSK: Float[Tensor, "*B G S K"],
    v_BGSK: Float[Tensor, "*B G S K"],
    mask: Mask | Bool[Tensor, "*M T S"] | None,
    drop: Dropout | None = None,
    cap: float | None = None,
) -> Float[Tensor, "*B H T K"]:
    """Attention whose key head g serves the query heads g H/G .. (g + 1) H/G (Ainslie et al., 2023).

    The queries that share a key are rows of one matrix product, so that no key is repeated in memory.
    """
    (G, S), H = k_BGSK.shape[-3:-1], q_BHTK.shape[-3]
    if isinstance(mask, Mask):
        mask = mask.pairs(S)
    if G == H:
        return scaled_dot_product_attention(q_BHTK, k_BGSK, v_BGSK, mask, drop, cap)
    groups = (G, H // G)
    rows = q_BHTK.unflatten(-3, groups).flatten(-3, -2)
    if mask is not None:
        mask = mask.unsqueeze(-3).expand(*mask.shape[:-2], H // G, -1, -1).flatten(-3, -2)
    out = scaled_dot_product_attention(rows, k_BGSK, v_BGSK, mask, drop, cap)
    return out.unflatten(-2, (H // G, -1)).flatten(-4, -3)


class MultiHeadSelfAttention(nn.Module):
    """Attention of num_heads heads over one sequence, with RoPE if the context has its tables.

    A pass over prompts attends to their own keys, and fills a cache if it is given one. A decode step writes the new
    keys and values into the cache, and attends to as many of the first slots as the mask has keys.

    Args:
        num_kv_heads: Heads of keys and values; by default num_heads.
        d_head: Width of a head; by default d_model / num_heads.
        output_bias: Add a bias to the output projection; by default as `bias` does to the others.
        qk_norm_eps: Epsilon of an RMSNorm of queries and keys, before RoPE (Dehghani et al., 2023, section 2); by
            default there is no norm.
        qk_norm_over: What one norm covers: each head, or all heads at once (OLMo 2).
        norm_offset: What the norms add to their weights.
        query_factor: What queries are multiplied by, after RoPE.
        score_softcap: Bound of the scores' `softcap`; by default scores have no bound.
        attention_dropout: Share of the attention weights that training drops.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        device: Device = None,
        dtype: Dtype = None,
        bias: bool = False,
        num_kv_heads: int | None = None,
        *,
        d_head: int | None = None,
        output_bias: bool | None = None,
        qk_norm_eps: float | None = None,
        qk_norm_over: QKNormOver = "head",
        norm_offset: float = 0.0,
        query_factor: float = 1.0,
        score_softcap: float | None = None,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.d_head = d_head or d_model // num_heads
        self.qk_norm_over, self.query_factor = qk_norm_over, query_factor
        self.score_softcap, self.attention_dropout = score_softcap, attention_dropout
        d_q, d_kv = self.d_head * num_heads, self.d_head * (num_kv_heads or num_heads)
        self.q_proj = Linear(d_model, d_q, device, dtype, bias)
        self.k_proj = Linear(d_model, d_kv, device, dtype, bias)
        self.v_proj = Linear(d_model, d_kv, device, dtype, bias)
        self.q_norm, self.k_norm = (
            Identity()
            if qk_norm_eps is None
            else RMSNorm(
                self.d_head if qk_norm_over == "head" else d, qk_norm_eps, device, dtype, norm_offset
            )
            for d in (d_q, d_kv)
        )
        self.output_proj = Linear(d_q, d_model, device, dtype, bias if output_bias is None else output_bias)

    def forward(
        self, x_BTD: Float[Tensor, "*B T D"], context: Context, cache: LayerCache | None = None
    ) -> Float[Tensor, "*B T D"]:
        q, k, v = self.q_proj(x_BTD), self.k_proj(x_BTD), self.v_proj(x_BTD)
        if self.qk_norm_over == "all_heads":
            q, k = self.q_norm(q), self.k_norm(k)
        q_BHTK, k_BHTK, v_BHTK = (x.unflatten(-1, (-1, self.d_head)).transpose(-2, -3) for x in (q, k, v))
        if self.qk_norm_over == "head":
            q_BHTK, k_BHTK = self.q_norm(q_BHTK), self.k_norm(k_BHTK)
        if context.rope is not None:
            q_BHTK, k_BHTK = rope(q_BHTK, context.rope), rope(k_BHTK, context.rope)
        if self.query_factor != 1.0:
            q_BHTK = (at_least_float32(q_BHTK) * self.query_factor).to(q_BHTK.dtype)
        if cache is not None and context.kept_BS is not None:
            cache.fill(k_BHTK, v_BHTK, context.kept_BS)
        elif cache is not None:
            assert isinstance(context.mask, Tensor)
            assert context.slots_BT is not None
            cache.write(k_BHTK, v_BHTK, context.slots_BT)
            S = context.mask.shape[-1]
            k_BHTK, v_BHTK = cache.k_BHSK[:, :, :S], cache.v_BHSK[:, :, :S]
        drop = None
        if context.key is not None and self.attention_dropout > 0.0:
            drop = Dropout(self.attention_dropout, context.key, "weights")
        out_BHTK = grouped_query_attention(q_BHTK, k_BHTK, v_BHTK, context.mask, drop, self.score_softcap)
        return self.output_proj(out_BHTK.transpose(-2, -3).flatten(-2))
