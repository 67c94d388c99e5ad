"""One token of each sequence through a decoder, against the keys and values of those before it.

These are the formulas of layers.py, attention.py and model.py once more, as functions bound to their weights: a step
takes so little time that what nn.Module does at each call, and the choice of each product's form, would be a fifth of
it (docs/benchmarks.md, "Generation"). tests/parity proves of every option that they are the same model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn

from torch_impl import fused
from torch_impl.attention import MultiHeadSelfAttention
from torch_impl.functional import at_least_float32
from torch_impl.layers import FeedForward, Linear, RMSNorm, SwiGLU
from torch_impl.model import ParallelBlock, StackWithHead
from torch_impl.product import chosen


class Place(NamedTuple):
    """Where in their sequences a step's tokens are; the same for all layers."""

    slots: int | Int[Tensor, " N"]
    """Where new keys go: to the slot that all sequences have in common, or to rows of the keys, seen as a matrix."""
    filled: int
    """The first so many slots are read."""
    hidden_B1S: Bool[Tensor, "B 1 S"] | None
    """Which of them the sequence's token may not see; if not given, it sees all."""
    turn_B1P: Complex[Tensor, "#B 1 P"] | None
    """RoPE of the positions, where there is RoPE: the cosines, and the sines as imaginary parts."""


@dataclass
class LayerCache:
    """Keys and values of one layer, of num_kv_heads heads, in S slots, of which position t takes slot t mod S."""

    k_BHSK: Float[Tensor, "B H S K"]
    v_BHSK: Float[Tensor, "B H S K"]

    def write(self, k_BHK: Tensor, v_BHK: Tensor, at: Place) -> tuple[Tensor, Tensor]:
        """Store the new keys and values in their slots, and return those that are read."""
        for held_BHSK, new_BHK in ((self.k_BHSK, k_BHK), (self.v_BHSK, v_BHK)):
            if isinstance(at.slots, int):
                held_BHSK.select(2, at.slots).copy_(new_BHK)
            else:  # an assignment by index takes twice as long
                K = new_BHK.shape[-1]
                held_BHSK.view(-1, K).index_copy_(0, at.slots, new_BHK.reshape(-1, K))
        return self.k_BHSK.narrow(2, 0, at.filled), self.v_BHSK.narrow(2, 0, at.filled)

    def grown(self, S: int) -> "LayerCache":
        """The same with S slots, the new ones of zeros."""

        def grow(x_BHSK: Tensor) -> Tensor:
            B, H, old, K = x_BHSK.shape
            grown_BHSK = x_BHSK.new_empty(B, H, S, K)
            grown_BHSK[:, :, :old] = x_BHSK
            grown_BHSK[:, :, old:] = 0.0
            return grown_BHSK

        return LayerCache(grow(self.k_BHSK), grow(self.v_BHSK))


def rows_of_slots(slots_B: Int[Tensor, " B"], H: int, S: int) -> Int[Tensor, " N"]:
    """Where each sequence's slot lies, of every head, in keys of H heads and S slots that are seen as a matrix."""
    heads_BH = torch.arange(len(slots_B) * H, device=slots_B.device).view(-1, H)
    return (heads_BH * S + slots_B[:, None]).flatten()


Branch = Callable[[Float[Tensor, "B ..."]], Float[Tensor, "B ..."]]
"""One row for each sequence, to one row."""
Layer = Callable[[Float[Tensor, "B D"], LayerCache, Place], Float[Tensor, "B D"]]
"""The same with a cache, which is written."""
Decoder = Callable[[Float[Tensor, "B D"], list[LayerCache], Place], Float[Tensor, "B V"]]
"""From embeddings to logits of the next token; the caches are written."""


def attend(
    q_BHK: Float[Tensor, "B H K"],
    k_BGSK: Float[Tensor, "B G S K"],
    v_BGSK: Float[Tensor, "B G S K"],
    hidden_B1S: Bool[Tensor, "B 1 S"] | None,
) -> Float[Tensor, "B D"]:
    """Attention of a single query: key head g serves the query heads g H/G .. (g + 1) H/G.

    Keys and values are finite, those of a cache zeros until they are written, and every query sees one: its own.
    """
    (B, H, K), (G, S) = q_BHK.shape, k_BGSK.shape[1:3]
    q_NRK = (at_least_float32(q_BHK) * K**-0.5).reshape(B * G, H // G, K)
    scores_NRS = torch.bmm(q_NRK, at_least_float32(k_BGSK).flatten(0, 1).mT)
    if hidden_B1S is not None:
        scores_NRS.view(B, H, S).masked_fill_(hidden_B1S, -torch.inf)
    exp_NRS = scores_NRS.sub_(scores_NRS.amax(-1, keepdim=True)).exp_()
    weights_NRS = exp_NRS.div_(exp_NRS.sum(-1, keepdim=True))
    return torch.bmm(fused.cast(weights_NRS, v_BGSK.dtype), v_BGSK.flatten(0, 1)).view(B, H * K)


def bound_decoder(stack: StackWithHead, B: int) -> Decoder:
    """A stack and its head, for one token of each of B sequences, with the weights in the type that is computed in."""
    layers = [bound_block(layer, B, stack.compute_dtype) for layer in stack.layers]
    last, head = bound_norm(stack.ln_final), bound_product(stack.head_weight, B, stack.compute_dtype)

    def forward(x_BD: Tensor, caches: list[LayerCache], at: Place) -> Tensor:
        for layer, cache in zip(layers, caches, strict=True):
            x_BD = layer(x_BD, cache, at)
        # Whoever reads a row of a transpose reads all memory.
        return head(last(x_BD)).contiguous()

    return forward


def bound_block(block: Any, B: int, dtype: torch.dtype) -> Layer:
    """`TransformerBlock` or `ParallelBlock`."""
    before, after, ln1 = block.before, block.after, bound_norm(block.ln1)
    attention, feed = bound_attention(block.attn, B, dtype), bound_feed_forward(block.ffn, B, dtype)

    if isinstance(block, ParallelBlock):

        def parallel(x_BD: Tensor, cache: LayerCache, at: Place) -> Tensor:
            normed_BD = before(ln1, x_BD)
            return after(ln1, x_BD + attention(normed_BD, cache, at) + feed(normed_BD))

        return parallel

    ln2 = bound_norm(block.ln2)

    def sequential(x_BD: Tensor, cache: LayerCache, at: Place) -> Tensor:
        x_BD = after(ln1, x_BD + attention(before(ln1, x_BD), cache, at))
        return after(ln2, x_BD + feed(before(ln2, x_BD)))

    return sequential


def bound_attention(attention: MultiHeadSelfAttention, B: int, dtype: torch.dtype) -> Layer:
    """`MultiHeadSelfAttention` of one query a sequence."""
    q_proj, k_proj, v_proj, output_proj = (
        bound_linear(projection, B, dtype)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj, attention.output_proj)
    )
    q_norm, k_norm, K = bound_norm(attention.q_norm), bound_norm(attention.k_norm), attention.d_head

    def attended(x_BD: Tensor, cache: LayerCache, at: Place) -> Tensor:
        q_BHK, k_BHK = q_norm(q_proj(x_BD).view(B, -1, K)), k_norm(k_proj(x_BD).view(B, -1, K))
        if at.turn_B1P is not None:
            q_BHK, k_BHK = fused.rotate(q_BHK, at.turn_B1P), fused.rotate(k_BHK, at.turn_B1P)
        k_BHSK, v_BHSK = cache.write(k_BHK, v_proj(x_BD).view(B, -1, K), at)
        return output_proj(attend(q_BHK, k_BHSK, v_BHSK, at.hidden_B1S))

    return attended


def bound_feed_forward(layer: SwiGLU | FeedForward, B: int, dtype: torch.dtype) -> Branch:
    """`SwiGLU` or `FeedForward`."""
    w1, w2 = bound_linear(layer.w1, B, dtype), bound_linear(layer.w2, B, dtype)
    if isinstance(layer, SwiGLU):
        w3, gate = bound_linear(layer.w3, B, dtype), fused.without_gradient(fused.SiLUGate)
        return lambda x_BD: w2(gate(w1(x_BD), w3(x_BD)))
    activation = layer.activation
    return lambda x_BD: w2(activation(w1(x_BD)))


def bound_norm(norm: nn.Module) -> Branch:
    """`RMSNorm`, or another norm or none, whose own forward pass will do."""
    if isinstance(norm, RMSNorm):
        return partial(fused.without_gradient(fused.RMSNorm), weight=norm.weight, eps=norm.eps)
    return norm.forward


def bound_linear(layer: Linear, B: int, dtype: torch.dtype) -> Branch:
    """`Linear`."""
    multiply = bound_product(layer.weight, B, dtype)
    if layer.bias is None:
        return multiply
    bias = fused.cast(layer.bias, dtype)
    return lambda x_BI: multiply(x_BI) + bias


def bound_product(weight: Float[Tensor, "O I"], B: int, dtype: torch.dtype) -> Branch:
    """x W^T, in the form that suits B rows."""
    weight = fused.cast(weight, dtype)
    return chosen(B, weight)(weight)
