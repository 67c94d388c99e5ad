"""The adapter functions of the course's 2024 model: learned positions, GELU, dropout, no RoPE.

Torch tensors in and out, whichever backend computes (LM_BACKEND). The functions that are not here are those of
`tests.adapters`. What is dropped is drawn afresh at each call; torch.manual_seed repeats it.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

import jax_impl.attention
import jax_impl.functional
import jax_impl.layers
import jax_impl.masks
import jax_impl.model
import torch_impl.attention
import torch_impl.functional
import torch_impl.layers
import torch_impl.masks
import torch_impl.model
from jax_impl.trees import nested
from lm.config import ModelConfig
from lm.data.batch import check_token_ids
from tests.adapters import _loaded, _use_jax, _via_jax


def _draws(rows: int) -> tuple[torch_impl.functional.DropoutKey, jax_impl.functional.DropoutKey]:
    """Make a new dropout key for this many rows, for either backend."""
    seed = int(torch.randint(2**63 - 1, ()))
    return (
        torch_impl.functional.DropoutKey(seed, 0, torch.arange(rows, dtype=torch.int32)),
        jax_impl.functional.DropoutKey(seed, jnp.int32(0), jnp.arange(rows, dtype=jnp.int32)),
    )


def _config(
    d_model: int, num_heads: int, d_ff: int, attn_pdrop: float, residual_pdrop: float, **more: Any
) -> ModelConfig:
    sizes = {"vocab_size": 1, "context_length": 1, "num_layers": 1} | more
    return ModelConfig(
        **sizes,
        d_model=d_model,
        num_heads=num_heads,
        d_ff=d_ff,
        position="learned",
        ffn="gelu",
        embedding_dropout=residual_pdrop,
        attention_dropout=attn_pdrop,
        residual_dropout=residual_pdrop,
    )


def run_positionwise_feedforward(
    d_model: int, d_ff: int, weights: dict[str, Tensor], in_features: Float[Tensor, "... d_model"]
) -> Float[Tensor, "... d_model"]:
    if _use_jax():
        return _via_jax(jax_impl.model.FEED_FORWARDS["gelu"], nested(weights), in_features)
    return _loaded(torch_impl.model.FEED_FORWARDS["gelu"](d_model, d_ff), weights)(in_features)


def run_scaled_dot_product_attention(
    K: Float[Tensor, "... keys d_k"],
    Q: Float[Tensor, "... queries d_k"],
    V: Float[Tensor, "... keys d_v"],
    mask: Bool[Tensor, "... queries keys"] | None = None,
    pdrop: float | None = None,
) -> Float[Tensor, "... queries d_v"]:
    """Here the mask is True if a query may NOT attend to a key."""
    may_attend = None if mask is None else ~mask
    of_torch, of_jax = _draws(Q.shape[0])
    if _use_jax():
        drop = jax_impl.functional.Dropout(pdrop, of_jax, "weights") if pdrop else None
        attention = partial(jax_impl.attention.scaled_dot_product_attention, drop=drop)
        return _via_jax(attention, Q, K, V, may_attend)
    drop_weights = torch_impl.functional.Dropout(pdrop, of_torch, "weights") if pdrop else None
    return torch_impl.attention.scaled_dot_product_attention(Q, K, V, may_attend, drop_weights)


def run_multihead_self_attention(
    d_model: int,
    num_heads: int,
    attn_pdrop: float,
    weights: dict[str, Tensor],
    in_features: Float[Tensor, "... seq d_model"],
) -> Float[Tensor, "... seq d_model"]:
    """The heads' weights come apart, as q_heads.{i}.weight; ours are the rows of one matrix, head after head."""
    stacked = {
        f"{name}_proj.weight": torch.cat([weights[f"{name}_heads.{i}.weight"] for i in range(num_heads)])
        for name in "qkv"
    } | {"output_proj.weight": weights["output_proj.weight"]}
    # Of a sequence without a batch, the heads are the rows.
    of_torch, of_jax = _draws(in_features.shape[0] if in_features.ndim > 2 else num_heads)
    if _use_jax():
        mask = jax_impl.masks.causal_mask(in_features.shape[-2])
        return _via_jax(
            lambda params, x: jax_impl.attention.multihead_self_attention(
                params,
                x,
                jax_impl.attention.Context(mask, key=of_jax),
                num_heads,
                attention_dropout=attn_pdrop,
            )[0],
            nested(stacked),
            in_features,
        )
    module = torch_impl.attention.MultiHeadSelfAttention(d_model, num_heads, attention_dropout=attn_pdrop)
    causal = torch_impl.masks.causal_mask(in_features.shape[-2], in_features.device)
    return _loaded(module, stacked)(in_features, torch_impl.attention.Context(causal, key=of_torch))


def run_transformer_block(
    d_model: int,
    num_heads: int,
    d_ff: int,
    attn_pdrop: float,
    residual_pdrop: float,
    weights: dict[str, Tensor],
    in_features: Float[Tensor, "batch seq d_model"],
) -> Float[Tensor, "batch seq d_model"]:
    config = _config(d_model, num_heads, d_ff, attn_pdrop, residual_pdrop)
    of_torch, of_jax = _draws(in_features.shape[0])
    if _use_jax():
        mask = jax_impl.masks.causal_mask(in_features.shape[-2])
        return _via_jax(
            lambda params, x: jax_impl.model.transformer_block(
                params, x, config, jax_impl.attention.Context(mask, key=of_jax)
            )[0],
            nested(weights),
            in_features,
        )
    block = _loaded(torch_impl.model.TransformerBlock(config), weights)
    causal = torch_impl.masks.causal_mask(in_features.shape[-2], in_features.device)
    return block(in_features, torch_impl.attention.Context(causal, key=of_torch))


def run_transformer_lm(
    vocab_size: int,
    context_length: int,
    d_model: int,
    num_layers: int,
    num_heads: int,
    d_ff: int,
    attn_pdrop: float,
    residual_pdrop: float,
    weights: dict[str, Tensor],
    in_indices: Int[Tensor, "batch seq"],
) -> Float[Tensor, "batch seq vocab_size"]:
    check_token_ids(in_indices.cpu().numpy(), vocab_size)
    config = _config(
        d_model,
        num_heads,
        d_ff,
        attn_pdrop,
        residual_pdrop,
        vocab_size=vocab_size,
        context_length=context_length,
        num_layers=num_layers,
    )
    of_torch, of_jax = _draws(in_indices.shape[0])
    if _use_jax():
        model_of = partial(jax_impl.model.transformer_lm, key=of_jax)
        return _via_jax(model_of, nested(weights), in_indices, config)
    head = weights["lm_head.weight"]
    model = torch_impl.model.TransformerLM(config, device=head.device, dtype=head.dtype)
    return _loaded(model, weights)(in_indices, of_torch)


def run_rmsnorm(
    d_model: int, eps: float, weights: dict[str, Tensor], in_features: Float[Tensor, "... d_model"]
) -> Float[Tensor, "... d_model"]:
    if _use_jax():
        return _via_jax(jax_impl.layers.rmsnorm, weights, in_features, eps)
    return _loaded(torch_impl.layers.RMSNorm(d_model, eps), weights)(in_features)


def run_gelu(in_features: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    if _use_jax():
        return _via_jax(jax_impl.functional.gelu, in_features)
    return torch_impl.functional.gelu(in_features)
