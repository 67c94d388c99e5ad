"""The Transformer: blocks of attention and feed-forward on one residual stream."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from lm.config import ModelConfig
from lm.init import position_tables
from torch_impl import fused
from torch_impl.attention import (
    KeysAndValues,
    MultiHeadSelfAttention,
    Rope,
    causal_mask,
    padding_mask,
    prefix_mask,
)
from torch_impl.functional import Draw, dropout, gelu, relu, silu
from torch_impl.layers import Embedding, FeedForward, Identity, LayerNorm, Linear, RMSNorm, SwiGLU
from torch_impl.product import product

Tables = tuple[Tensor, ...]
"""What `lm.init.position_tables` has for the positions at hand."""

NORMS: dict[str, Callable[..., nn.Module]] = {"rmsnorm": RMSNorm, "layernorm": LayerNorm}
FEED_FORWARDS: dict[str, Callable[..., nn.Module]] = {
    "swiglu": SwiGLU,
    "silu": partial(FeedForward, silu),
    "gelu": partial(FeedForward, gelu),
    "relu": partial(FeedForward, relu),
}


def make_norm(
    config: ModelConfig, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """A norm of the residual stream's width, or nothing."""
    if config.norm == "none":
        return Identity()
    return NORMS[config.norm](config.d_model, config.norm_eps, device, dtype)


def _apply(norm: Callable[[Tensor], Tensor], x_BTD: Tensor) -> Tensor:
    return norm(x_BTD)


def _skip(norm: Callable[[Tensor], Tensor], x_BTD: Tensor) -> Tensor:
    return x_BTD


class TransformerBlock(nn.Module):
    """Attention, then feed-forward, each added to the residual stream.

    The stream is normalised before each branch reads it, or after each is added: pre-norm or post-norm
    (Xiong et al., 2020, figure 1).
    """

    def __init__(
        self, config: ModelConfig, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.residual_dropout = config.residual_dropout
        self.before, self.after = (_apply, _skip) if config.norm_position == "pre" else (_skip, _apply)
        self.ln1 = make_norm(config, device, dtype)
        self.attn = MultiHeadSelfAttention(
            config.d_model,
            config.num_heads,
            device,
            dtype,
            config.bias,
            config.num_kv_heads,
            config.norm_eps if config.qk_norm else None,
            config.attention_dropout,
        )
        self.ln2 = make_norm(config, device, dtype)
        self.ffn = FEED_FORWARDS[config.ffn](config.d_model, config.d_ff, device, dtype, config.bias)

    def forward(
        self,
        x_BTD: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "*M T S"] | None,
        tables: Rope | None = None,
        kept: list[KeysAndValues] | None = None,
        draw: Draw | None = None,
    ) -> Float[Tensor, "B T D"]:
        drop = partial(dropout, rate=self.residual_dropout, draw=draw)
        attended_BTD = self.attn(self.before(self.ln1, x_BTD), mask, tables, kept, draw)
        x_BTD = self.after(self.ln1, x_BTD + drop(attended_BTD, place="attn"))
        return self.after(self.ln2, x_BTD + drop(self.ffn(self.before(self.ln2, x_BTD)), place="ffn"))


class ParallelBlock(TransformerBlock):
    """Attention and feed-forward of one normalised stream, both added to it (Chowdhery et al., 2022, section 2)."""

    def __init__(
        self, config: ModelConfig, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(config, device, dtype)
        del self.ln2

    def forward(
        self,
        x_BTD: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "*M T S"] | None,
        tables: Rope | None = None,
        kept: list[KeysAndValues] | None = None,
        draw: Draw | None = None,
    ) -> Float[Tensor, "B T D"]:
        drop = partial(dropout, rate=self.residual_dropout, draw=draw)
        normed_BTD = self.before(self.ln1, x_BTD)
        attended_BTD = self.attn(normed_BTD, mask, tables, kept, draw)
        fed_BTD = self.ffn(normed_BTD)
        return self.after(self.ln1, x_BTD + drop(attended_BTD, place="attn") + drop(fed_BTD, place="ffn"))


BLOCKS = {"sequential": TransformerBlock, "parallel": ParallelBlock}


def _once(block: nn.Module, *args: Any) -> Tensor:
    return block(*args)


def _recomputed(block: nn.Module, *args: Any) -> Tensor:
    """The block, of which the backward pass keeps only the input, and computes the rest again (Chen et al., 2016).

    Of the same weights, also where functional_call lent them to the module for the forward pass alone.
    """
    weights: dict[str, Tensor] = dict(block.named_parameters())

    def run(*args: Any) -> Tensor:
        return functional_call(block, weights, args)

    return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False)


class Stack(nn.Module):
    """All of a Transformer but its head: embeddings, blocks, and the norm at their end.

    Args:
        length: Longest sequence it reads; of learned positions, how many there are.
        compute_dtype: Type of the activations; the weights' own if not given.
    """

    def __init__(
        self,
        config: ModelConfig,
        length: int,
        compute_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.token_embeddings = Embedding(config.vocab_size, config.d_model, device, dtype)
        # What is added to a token's embedding, as a function of its position's table.
        self.position_embeddings: nn.Module | None = None
        if config.position == "learned":
            self.position_embeddings = Embedding(length, config.d_model, device, dtype)
        elif config.position == "sinusoidal":
            self.position_embeddings = Identity()
        self.embedding_dropout = config.embedding_dropout
        self.rotary = config.position == "rope"
        self.run = _recomputed if config.remat == "block" else _once
        self.layers = nn.ModuleList(
            BLOCKS[config.block](config, device, dtype) for _ in range(config.num_layers)
        )
        self.ln_final = make_norm(config, device, dtype) if config.norm_position == "pre" else Identity()
        self.compute_dtype = compute_dtype or self.token_embeddings.weight.dtype
        self.config, self.length = config, length
        self.make_tables()

    def make_tables(self) -> None:
        """Keep the tables of all positions, on the weights' device; again where the weights have been moved."""
        tables = self.tables_of(np.arange(self.length))
        self.num_tables = len(tables)
        for i, table in enumerate(tables):
            self.register_buffer(f"table{i}", table, persistent=False)

    def tables_of(self, positions: Int[np.ndarray, "..."]) -> Tables:
        """The tables of these positions, floating-point ones in the weights' type."""
        weight = self.token_embeddings.weight
        return tuple(
            torch.tensor(t, device=weight.device, dtype=weight.dtype if t.dtype.kind == "f" else None)
            for t in position_tables(self.config, positions, self.length)
        )

    def first_tables(self, T: int) -> Tables:
        """The tables of positions 0 .. T - 1: kept ones, up to the longest sequence."""
        if self.length < T:
            return self.tables_of(np.arange(T))
        return tuple(self.get_buffer(f"table{i}")[:T] for i in range(self.num_tables))

    def embed(
        self, token_ids_BT: Int[Tensor, "B T"], tables: Tables, draw: Draw | None = None
    ) -> Float[Tensor, "B T D"]:
        """The residual stream before the first block."""
        x_BTD = self.token_embeddings(token_ids_BT)
        if self.position_embeddings is not None:
            x_BTD = x_BTD + self.position_embeddings(*tables)
        return dropout(x_BTD.to(self.compute_dtype), self.embedding_dropout, draw, "embedding")

    def hidden_states(
        self,
        x_BTD: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "*M T S"] | None,
        tables: Tables,
        kept: list[KeysAndValues] | None = None,
        draw: Draw | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The residual stream after the last block, normalised.

        Args:
            tables: Of positions (T,) or (B, T).
            kept: Gets the keys and values of each layer.
        """
        # Every head of a sequence has its positions.
        rope = tuple(table.unsqueeze(-3) for table in tables) if self.rotary else None
        for i, layer in enumerate(self.layers):
            within = draw.at(f"layers.{i}") if draw else None
            x_BTD = self.run(layer, x_BTD, mask, rope, kept, within)
        return self.ln_final(x_BTD)

    def encode(
        self, token_ids_BT: Int[Tensor, "B T"], num_tokens_B: Int[Tensor, " B"], draw: Draw | None = None
    ) -> Float[Tensor, "B T D"]:
        """The hidden states of an encoder, whose sequences are padded to T."""
        T = token_ids_BT.shape[1]
        tables, mask = self.first_tables(T), padding_mask(num_tokens_B, T)
        return self.hidden_states(self.embed(token_ids_BT, tables, draw), mask, tables, draw=draw)


class StackWithHead(Stack):
    """A stack, and the head that makes logits of what it gives."""

    def __init__(
        self,
        config: ModelConfig,
        compute_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(config, config.context_length, compute_dtype, device, dtype)
        self.lm_head = (
            None if config.tie_embeddings else Linear(config.d_model, config.vocab_size, device, dtype)
        )

    @property
    def head_weight(self) -> Tensor:
        """The head's, which tied models have in common with their embeddings (Press and Wolf, 2017)."""
        return (self.token_embeddings if self.lm_head is None else self.lm_head).weight

    def logits(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """Of the next token, or of that at each place."""
        # The product may be a transpose, of which whoever reads a row reads all memory.
        return product(x, fused.cast(self.head_weight, x.dtype)).contiguous()


class TransformerLM(StackWithHead):
    """Token ids to logits of the next token."""

    def forward(self, token_ids_BT: Int[Tensor, "B T"], draw: Draw | None = None) -> Float[Tensor, "B T V"]:
        T = token_ids_BT.shape[1]
        tables, mask = self.first_tables(T), causal_mask(T, token_ids_BT.device)
        x_BTD = self.embed(token_ids_BT, tables, draw)
        return self.logits(self.hidden_states(x_BTD, mask, tables, draw=draw))


class TransformerEncoder(StackWithHead):
    """Token ids to logits of the token at each place, from the tokens on both sides (Devlin et al., 2019)."""

    def forward(
        self, token_ids_BT: Int[Tensor, "B T"], num_tokens_B: Int[Tensor, " B"], draw: Draw | None = None
    ) -> Float[Tensor, "B T V"]:
        return self.logits(self.encode(token_ids_BT, num_tokens_B, draw))


class PrefixDecoder(StackWithHead):
    """A hidden cache, and token ids behind it, to logits of the next token.

    The cache is put before the tokens' embeddings: all blocks see one sequence, in which the cache attends to all of
    the cache, and a token to all of the cache and to the tokens up to itself.
    """

    def make_tables(self) -> None:
        super().make_tables()
        assert self.config.prefix_length is not None
        places = np.arange(self.config.prefix_length + self.config.context_length)
        for i, table in enumerate(self.tables_of(places) if self.rotary else ()):
            self.register_buffer(f"rope{i}", table, persistent=False)

    def behind(
        self,
        hidden_BPD: Float[Tensor, "B P D"],
        num_tokens_B: Int[Tensor, " B"],
        token_ids_BT: Int[Tensor, "B T"],
        draw: Draw | None = None,
    ) -> tuple[Float[Tensor, "B S D"], Bool[Tensor, "B 1 S S"], Tables]:
        """What the blocks read of a cache of P places and the tokens behind it.

        Added positions count the tokens from 0, and RoPE goes on where the prefix ends, so that padding counts nowhere.
        """
        (P, T), device = (hidden_BPD.shape[1], token_ids_BT.shape[1]), hidden_BPD.device
        is_token_BP1 = (torch.arange(P, device=device) < num_tokens_B[:, None])[..., None]
        x_BTD = self.embed(token_ids_BT, self.first_tables(T), draw)
        x_BSD = torch.cat((torch.where(is_token_BP1, hidden_BPD, 0), x_BTD), dim=1)
        tables: Tables = ()
        if self.rotary:
            place_S = torch.arange(P + T, device=device)
            place_BS = torch.where(place_S < P, place_S, place_S - P + num_tokens_B[:, None])
            tables = self.get_buffer("rope0")[place_BS], self.get_buffer("rope1")[place_BS]
        return x_BSD, prefix_mask(num_tokens_B, P, T), tables

    def forward(
        self,
        hidden_BPD: Float[Tensor, "B P D"],
        num_tokens_B: Int[Tensor, " B"],
        token_ids_BT: Int[Tensor, "B T"],
        draw: Draw | None = None,
    ) -> Float[Tensor, "B T V"]:
        x_BSD = self.hidden_states(*self.behind(hidden_BPD, num_tokens_B, token_ids_BT, draw), draw=draw)
        return self.logits(x_BSD[:, hidden_BPD.shape[1] :])


class EncoderDecoder(nn.Module):
    """A prefix, whose hidden states are the decoder's cache, and token ids that follow, to logits of the next token."""

    def __init__(
        self,
        config: ModelConfig,
        compute_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        assert config.prefix_length is not None
        self.encoder = Stack(config, config.prefix_length, compute_dtype, device, dtype)
        self.decoder = PrefixDecoder(config, compute_dtype, device, dtype)

    def forward(
        self,
        token_ids_BT: Int[Tensor, "B T"],
        num_tokens_B: Int[Tensor, " B"],
        prefix_BP: Int[Tensor, "B P"],
        draw: Draw | None = None,
    ) -> Float[Tensor, "B T V"]:
        in_encoder, in_decoder = (draw.at(half) if draw else None for half in ("encoder", "decoder"))
        hidden_BPD = self.encoder.encode(prefix_BP, num_tokens_B, in_encoder)
        return self.decoder(hidden_BPD, num_tokens_B, token_ids_BT, in_decoder)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "decoder": TransformerLM,
    "encoder": TransformerEncoder,
    "encoder_decoder": EncoderDecoder,
}
"""Each takes a batch's inputs, and its num_tokens and prefix where it has them, and a draw."""
