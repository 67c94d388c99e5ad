"""The Transformer: blocks of attention and feed-forward on one residual stream, and the language model."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from lm.config import LayerType, ModelConfig
from lm.init import position_tables
from torch_impl.attention import Context, LayerCache, MultiHeadSelfAttention
from torch_impl.dtypes import Device, Dtype
from torch_impl.functional import (
    DropoutKey,
    dropout,
    gelu,
    gelu_tanh,
    project,
    relu,
    relu2,
    silu,
    softcap,
)
from torch_impl.layers import Embedding, FeedForward, GeGLU, Identity, LayerNorm, Linear, RMSNorm, SwiGLU
from torch_impl.masks import causal_mask, document_mask

Tables = Mapping[LayerType, tuple[Tensor, ...]]
"""`lm.init.position_tables` of the positions, for each type of layers."""

NORMS: dict[str, Callable[..., nn.Module]] = {"rmsnorm": RMSNorm, "layernorm": LayerNorm}
FEED_FORWARDS: dict[str, Callable[..., nn.Module]] = {
    "swiglu": SwiGLU,
    "geglu_tanh": GeGLU,
    "silu": partial(FeedForward, silu),
    "gelu": partial(FeedForward, gelu),
    "gelu_tanh": partial(FeedForward, gelu_tanh),
    "relu": partial(FeedForward, relu),
    "relu2": partial(FeedForward, relu2),
}


def make_norm(config: ModelConfig, device: Device = None, dtype: Dtype = None) -> nn.Module:
    """Return a norm of the residual stream, or `Identity` if the model has none."""
    if config.norm == "none":
        return Identity()
    return NORMS[config.norm](config.d_model, config.norm_eps, device, dtype, config.norm_offset)


def pre_norm(norm: nn.Module, x: Tensor, config: ModelConfig) -> Tensor:
    """Normalise what a branch reads, if the norms' position is pre or sandwich."""
    return norm(x) if config.norm_position in ("pre", "sandwich") else x


def branch_norm(norm: nn.Module, norm_after: nn.Module, x: Tensor, config: ModelConfig) -> Tensor:
    """Normalise what a branch adds to the stream, by its only norm (branch) or by its second (sandwich)."""
    match config.norm_position:
        case "branch":
            return norm(x)
        case "sandwich":
            return norm_after(x)
    return x


def post_norm(norm: nn.Module, x: Tensor, config: ModelConfig) -> Tensor:
    """Normalise the stream after a branch is added, if the norms' position is post."""
    return norm(x) if config.norm_position == "post" else x


class TransformerBlock(nn.Module):
    """Attention, then feed-forward, each added to the residual stream, with norms as `ModelConfig.norm_position` says.

    With a norm of every kind, a branch f gives post_norm(x + branch_norm(f(pre_norm(x)))). A model has one of them, or
    the first two.
    """

    def __init__(self, config: ModelConfig, device: Device = None, dtype: Dtype = None) -> None:
        super().__init__()
        self.config = config
        self.ln1 = make_norm(config, device, dtype)
        self.attn = MultiHeadSelfAttention(
            config.d_model,
            config.num_heads,
            device,
            dtype,
            config.has_bias_of_qkv,
            config.num_kv_heads,
            d_head=config.d_head,
            output_bias=config.has_bias_of_output,
            qk_norm_eps=config.norm_eps if config.qk_norm else None,
            qk_norm_over=config.qk_norm_over,
            norm_offset=config.norm_offset,
            query_factor=config.query_factor,
            score_softcap=config.score_softcap,
            attention_dropout=config.attention_dropout,
        )
        self.ln2 = make_norm(config, device, dtype)
        self.ffn = FEED_FORWARDS[config.ffn](config.d_model, config.d_ff, device, dtype, config.bias)
        self.ln1_after, self.ln2_after = (
            make_norm(config, device, dtype) if config.norm_position == "sandwich" else Identity()
            for _ in range(2)
        )

    def forward(
        self, x_BTD: Float[Tensor, "B T D"], context: Context, cache: LayerCache | None = None
    ) -> Float[Tensor, "B T D"]:
        config = self.config
        drop = partial(dropout, rate=config.residual_dropout, key=context.key)
        attended_BTD = drop(self.attn(pre_norm(self.ln1, x_BTD, config), context, cache), place="attn")
        x_BTD = x_BTD + branch_norm(self.ln1, self.ln1_after, attended_BTD, config)
        x_BTD = post_norm(self.ln1, x_BTD, config)
        fed_BTD = drop(self.ffn(pre_norm(self.ln2, x_BTD, config)), place="ffn")
        x_BTD = x_BTD + branch_norm(self.ln2, self.ln2_after, fed_BTD, config)
        return post_norm(self.ln2, x_BTD, config)


class ParallelBlock(TransformerBlock):
    """Attention and feed-forward of one normalised stream, both added to it (Chowdhery et al., 2022, section 2)."""

    def __init__(self, config: ModelConfig, device: Device = None, dtype: Dtype = None) -> None:
        super().__init__(config, device, dtype)
        del self.ln2, self.ln2_after

    def forward(
        self, x_BTD: Float[Tensor, "B T D"], context: Context, cache: LayerCache | None = None
    ) -> Float[Tensor, "B T D"]:
        config = self.config
        drop = partial(dropout, rate=config.residual_dropout, key=context.key)
        normed_BTD = pre_norm(self.ln1, x_BTD, config)
        attended_BTD = drop(self.attn(normed_BTD, context, cache), place="attn")
        fed_BTD = drop(self.ffn(normed_BTD), place="ffn")
        if config.norm_position in ("branch", "sandwich"):
            return x_BTD + branch_norm(self.ln1, self.ln1_after, attended_BTD + fed_BTD, config)
        return post_norm(self.ln1, x_BTD + attended_BTD + fed_BTD, config)


BLOCKS = {"sequential": TransformerBlock, "parallel": ParallelBlock}


def recomputed(block: nn.Module, *args: Any) -> Tensor:
    """Apply a block and keep only its input. The backward pass computes the rest again (Chen et al., 2016).

    The recomputation uses the weights of the forward pass, even if functional_call had swapped them in only for that
    pass.
    """
    weights: dict[str, Tensor] = dict(block.named_parameters())

    def run(*args: Any) -> Tensor:
        return functional_call(block, weights, args)

    return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False)


class Stack(nn.Module):
    """A Transformer without its head: embeddings, blocks and the last norm.

    Args:
        length: Number of learned positions, and the most positions of a sequence without a prefix.
        compute_dtype: Type of the activations; by default the weights' own.
    """

    def __init__(
        self,
        config: ModelConfig,
        length: int,
        compute_dtype: Dtype = None,
        device: Device = None,
        dtype: Dtype = None,
    ) -> None:
        super().__init__()
        self.config, self.length = config, length
        self.token_embeddings = Embedding(config.vocab_size, config.d_model, device, dtype)
        learned = config.position == "learned"
        self.position_embeddings = Embedding(length, config.d_model, device, dtype) if learned else None
        self.recompute: Callable[..., Tensor] | None = recomputed if config.remat == "block" else None
        self.layers = nn.ModuleList(
            BLOCKS[config.block](config, device, dtype) for _ in range(config.num_layers)
        )
        self.ln_final = Identity() if config.norm_position == "post" else make_norm(config, device, dtype)
        self.compute_dtype = compute_dtype or self.token_embeddings.weight.dtype
        self.kept_tables: Tables = {}
        self.num_kept, self.kept_on = 0, self.token_embeddings.weight.device
        # After a prefix, RoPE's positions continue from the prefix's end.
        self.tables(length if learned else length + (config.prefix_length or 0))

    def tables(self, T: int) -> Tables:
        """Return the tables of positions 0 .. T - 1, in the weights' type. Keep them on the weights' device."""
        weight = self.token_embeddings.weight
        if self.num_kept < T or weight.device != self.kept_on:
            # Training must be able to keep them for the backward pass, even if they are first needed in inference.
            with torch.inference_mode(False):
                self.kept_tables = {
                    layer_type: tuple(
                        torch.tensor(
                            t, device=weight.device, dtype=weight.dtype if t.dtype.kind == "f" else None
                        )
                        for t in position_tables(
                            self.config, np.arange(T), self.length, layer_type=layer_type
                        )
                    )
                    for layer_type in self.config.used_layer_types
                }
            self.num_kept, self.kept_on = T, weight.device
        return {
            layer_type: tuple(table[:T] for table in tables)
            for layer_type, tables in self.kept_tables.items()
        }

    def embed(
        self, token_ids_BT: Int[Tensor, "B T"], tables: Tables, key: DropoutKey | None = None
    ) -> Float[Tensor, "B T D"]:
        """Return the residual stream before the first block."""
        config, x_BTD = self.config, self.token_embeddings(token_ids_BT)
        if config.scale_embeddings:
            x_BTD = x_BTD * config.d_model**0.5
        if config.position in ("learned", "sinusoidal"):
            (added,) = tables[config.layer_type(0)]  # the same for all types of layers
            x_BTD = x_BTD + (self.position_embeddings(added) if self.position_embeddings else added)
        return dropout(x_BTD.to(self.compute_dtype), config.embedding_dropout, key, "embedding")

    def hidden_states(
        self,
        x_BTD: Float[Tensor, "B T D"],
        contexts: Mapping[LayerType, Context],
        caches: list[LayerCache] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Return the residual stream after the last block, normalised. Write each layer's cache if caches are given.

        Args:
            contexts: The context of each type of layers.
        """
        for i, layer in enumerate(self.layers):
            block = partial(self.recompute, layer) if self.recompute else layer
            context = contexts[self.config.layer_type(i)].within(f"layers.{i}")
            x_BTD = block(x_BTD, context, caches[i] if caches else None)
        return self.ln_final(x_BTD)


class TransformerLM(Stack):
    """Token ids to logits of the next token.

    With `starts_BT`, the index at which each token's document starts, a token attends to its own document alone, in
    which positions count from 0.
    """

    def __init__(
        self, config: ModelConfig, compute_dtype: Dtype = None, device: Device = None, dtype: Dtype = None
    ) -> None:
        super().__init__(config, config.context_length, compute_dtype, device, dtype)
        self.lm_head = (
            None if config.tie_embeddings else Linear(config.d_model, config.vocab_size, device, dtype)
        )

    def logits(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """Apply the head. Tied models share the head's weight with their embeddings (Press and Wolf, 2017)."""
        head = self.token_embeddings if self.lm_head is None else self.lm_head
        logits, cap = project(x, head.weight), self.config.logit_softcap
        return logits if cap is None else softcap(logits, cap)

    def causal_contexts(
        self,
        T: int,
        tables: Tables,
        starts_BT: Int[Tensor, "B T"] | None = None,
        key: DropoutKey | None = None,
    ) -> dict[LayerType, Context]:
        """Return the context of each type of layers, for T tokens that attend to tokens up to themselves.

        Args:
            starts_BT: The index at which each token's document starts. A token attends to its own document alone.
        """
        contexts: dict[LayerType, Context] = {}
        for layer_type, of_type in tables.items():
            window = self.config.window(layer_type)
            if starts_BT is None:
                mask = causal_mask(T, self.token_embeddings.weight.device, window)
            else:
                mask = document_mask(starts_BT, window)
            rope: Any = of_type if self.config.position == "rope" else None
            contexts[layer_type] = Context(mask, rope, key=key)
        return contexts

    def forward(
        self,
        token_ids_BT: Int[Tensor, "B T"],
        key: DropoutKey | None = None,
        starts_BT: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T V"]:
        T = token_ids_BT.shape[1]
        tables = self.tables(T)
        if starts_BT is not None:
            place_BT = torch.arange(T, device=starts_BT.device) - starts_BT
            # Every head of a sequence has the sequence's positions.
            place = place_BT[:, None] if self.config.position == "rope" else place_BT
            tables = {
                layer_type: tuple(table[place] for table in of_type) for layer_type, of_type in tables.items()
            }
        contexts = self.causal_contexts(T, tables, starts_BT, key)
        return self.logits(self.hidden_states(self.embed(token_ids_BT, tables, key), contexts))
