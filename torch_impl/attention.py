"""Rotary positions, scaled dot-product attention, and multi-head self-attention with and without a cache."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torch_impl import fast
from torch_impl.dtypes import Device, Dtype, at_least_float32
from torch_impl.functional import Dropout, DropoutKey
from torch_impl.layers import Identity, Linear, RMSNorm
from torch_impl.masks import Mask

Rope = tuple[Float[Tensor, "... P"], Float[Tensor, "... P"]]
"""Cosines and sines of the positions (`lm.init.rope_tables`), P = d_head / 2."""


@dataclass(frozen=True)
class Context:
    """What all blocks of a forward pass share."""

    mask: Mask | Bool[Tensor, "*M T S"] | None
    """The keys that a query may attend to, or True if it may; without a mask every query attends to every key."""
    rope: Rope | None = None
    """RoPE's tables, which broadcast against (B, H, T, P); None if the model does not rotate."""
    slots_BT: Int[Tensor, "B T"] | None = None
    """The cache slots of the new keys; None without a cache."""
    key: DropoutKey | None = None
    """What training drops; None outside training."""

    def within(self, place: str) -> "Context":
        """Return the context of a place in the model, such as a layer: dropout depends on the place."""
        return replace(self, key=self.key.within(place)) if self.key else self


@dataclass
class LayerCache:
    """Keys and values of one layer, of num_kv_heads heads, in S slots; position t takes slot t mod S."""

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
) -> Float[Tensor, "*B T V"]:
    """softmax(Q K^T / sqrt(d_k)) V (Vaswani et al., 2017, eq. 1).

    Args:
        mask: True if the query may attend to the key; broadcasts against (*B, T, S). A query that may
            attend to nothing yields zeros with zero gradients. A key and value that no query may attend to
            are not read, whatever they hold, NaN included.
        drop: What training does to the attention weights.
    """
    if mask is not None:
        is_read = mask.any(-2)[..., None]
        K, V = torch.where(is_read, K, 0), torch.where(is_read, V, 0)
    scores = at_least_float32(Q) @ at_least_float32(K).mT * Q.shape[-1] ** -0.5
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
) -> Float[Tensor, "*B H T K"]:
    """Attention whose key head g serves the query heads g H/G .. (g + 1) H/G (Ainslie et al., 2023).

    The queries that share a key are rows of one matrix product, so that no key is repeated in memory.
    """
    (G, S), H = k_BGSK.shape[-3:-1], q_BHTK.shape[-3]
    if isinstance(mask, Mask):
        mask = mask.pairs(S)
    if G == H:
        return scaled_dot_product_attention(q_BHTK, k_BGSK, v_BGSK, mask, drop)
    groups = (G, H // G)
    rows = q_BHTK.unflatten(-3, groups).flatten(-3, -2)
    if mask is not None:
        mask = mask.unsqueeze(-3).expand(*mask.shape[:-2], H // G, -1, -1).flatten(-3, -2)
    out = scaled_dot_product_attention(rows, k_BGSK, v_BGSK, mask, drop)
    return out.unflatten(-2, (H // G, -1)).flatten(-4, -3)


class MultiHeadSelfAttention(nn.Module):
    """Attention of num_heads heads over one sequence, with RoPE if the context has its tables.

    With a cache, the new keys and values are written into their slots, and as many of the first slots are read as the
    mask has keys; a `Mask` has one for each query.

    Args:
        num_kv_heads: Heads of keys and values; by default num_heads.
        qk_norm_eps: Epsilon of an RMSNorm over each head's queries and keys, before RoPE (Dehghani et al., 2023,
            section 2); by default there is no norm.
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
        qk_norm_eps: float | None = None,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention_dropout = attention_dropout
        self.d_head = d_model // num_heads
        d_kv = self.d_head * (num_kv_heads or num_heads)
        self.q_proj = Linear(d_model, d_model, device, dtype, bias)
        self.k_proj = Linear(d_model, d_kv, device, dtype, bias)
        self.v_proj = Linear(d_model, d_kv, device, dtype, bias)
        self.q_norm, self.k_norm = (
            Identity() if qk_norm_eps is None else RMSNorm(self.d_head, qk_norm_eps, device, dtype)
            for _ in range(2)
        )
        self.output_proj = Linear(d_model, d_model, device, dtype, bias)

    def forward(
        self, x_BTD: Float[Tensor, "*B T D"], context: Context, cache: LayerCache | None = None
    ) -> Float[Tensor, "*B T D"]:
        q_BHTK, k_BHTK, v_BHTK = (
            projection(x_BTD).view(*x_BTD.shape[:-1], -1, self.d_head).transpose(-2, -3)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q_BHTK, k_BHTK = self.q_norm(q_BHTK), self.k_norm(k_BHTK)
        if context.rope is not None:
            q_BHTK, k_BHTK = rope(q_BHTK, context.rope), rope(k_BHTK, context.rope)
        if cache is not None:
            assert context.mask is not None
            assert context.slots_BT is not None
            cache.write(k_BHTK, v_BHTK, context.slots_BT)
            S = x_BTD.shape[-2] if isinstance(context.mask, Mask) else context.mask.shape[-1]
            k_BHTK, v_BHTK = cache.k_BHSK[:, :, :S], cache.v_BHSK[:, :, :S]
        drop = None
        if context.key is not None and self.attention_dropout > 0.0:
            drop = Dropout(self.attention_dropout, context.key, "weights")
        out_BHTK = grouped_query_attention(q_BHTK, k_BHTK, v_BHTK, context.mask, drop)
        return self.output_proj(out_BHTK.transpose(-2, -3).flatten(-2))
