"""Rotary positions, scaled dot-product attention, and multi-head causal self-attention."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torch_impl import fused
from torch_impl.functional import at_least_float32
from torch_impl.layers import Linear

Rope = tuple[Float[Tensor, "... P"], Float[Tensor, "... P"]]
"""Cosines and sines of the positions at hand (`lm.init.rope_tables`), P = d_head / 2."""


def rope(x_TK: Float[Tensor, "*T K"], tables: Rope) -> Float[Tensor, "*T K"]:
    """Rotate the pairs (x[2p], x[2p + 1]) by their position's angle (Su et al., 2021, eq. 34).

    The tables' leading dimensions broadcast against those of x.
    """
    cos_TP, sin_TP = tables
    if fused.is_wanted():
        return fused.rotate(x_TK, cos_TP, sin_TP)
    even_TP, odd_TP = at_least_float32(x_TK).unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack((even_TP * cos_TP - odd_TP * sin_TP, even_TP * sin_TP + odd_TP * cos_TP), dim=-1)
    return rotated.flatten(-2).to(x_TK.dtype)


def scaled_dot_product_attention(
    Q: Float[Tensor, "*B T K"],
    K: Float[Tensor, "*B S K"],
    V: Float[Tensor, "*B S V"],
    mask: Bool[Tensor, "... T S"] | None = None,
) -> Float[Tensor, "*B T V"]:
    """softmax(Q K^T / sqrt(d_k)) V (Vaswani et al., 2017, eq. 1).

    Args:
        mask: True where the query may attend to the key; broadcasts against (*B, T, S). A query that may
            attend to nothing yields zeros with zero gradients; a key and value that no query may attend to
            are not read, whatever they hold, NaN included.
    """
    if fused.is_wanted() and Q.shape[:-2] == K.shape[:-2] == V.shape[:-2]:
        return fused.attention(Q, K, V, mask)
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
    return weights.to(V.dtype) @ V


@dataclass
class LayerCache:
    """Keys and values of one layer in S slots, of which position t takes slot t mod S."""

    k_BHSK: Float[Tensor, "B H S K"]
    v_BHSK: Float[Tensor, "B H S K"]

    def write(self, k_BHTK: Tensor, v_BHTK: Tensor, slots_BT: Int[Tensor, "B T"]) -> tuple[Tensor, Tensor]:
        """Store the new keys and values in their slots and return all of them."""
        index = slots_BT[:, None, :, None].expand(k_BHTK.shape)
        self.k_BHSK.scatter_(2, index, k_BHTK)
        self.v_BHSK.scatter_(2, index, v_BHTK)
        return self.k_BHSK, self.v_BHSK


class MultiHeadSelfAttention(nn.Module):
    """Attention of num_heads heads over one sequence, with RoPE where tables are given."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = Linear(d_model, d_model, device, dtype)
        self.k_proj = Linear(d_model, d_model, device, dtype)
        self.v_proj = Linear(d_model, d_model, device, dtype)
        self.output_proj = Linear(d_model, d_model, device, dtype)

    def forward(
        self,
        x_BTD: Float[Tensor, "*B T D"],
        mask: Bool[Tensor, "*M T S"],
        tables: Rope | None = None,
        cache: LayerCache | None = None,
        slots_BT: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "*B T D"]:
        q_BHTK, k_BHTK, v_BHTK = (
            projection(x_BTD).unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if tables is not None:
            q_BHTK, k_BHTK = rope(q_BHTK, tables), rope(k_BHTK, tables)
        if cache is not None and slots_BT is not None:
            k_BHTK, v_BHTK = cache.write(k_BHTK, v_BHTK, slots_BT)
        out_BHTK = scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, mask)
        return self.output_proj(out_BHTK.transpose(-2, -3).flatten(-2))


def causal_mask(T: int, device: torch.device | str | None = None) -> Bool[Tensor, "T T"]:
    """True where key s may be seen by query t: s <= t."""
    return torch.ones(T, T, dtype=torch.bool, device=device).tril()
