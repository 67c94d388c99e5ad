# mypy: ignore-errors
from __future__ import annotations

import torch
from basics import layers, model, training
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .common import load


def run_linear(
    d_in: int, d_out: int, weights: Float[Tensor, " d_out d_in"], in_features: Float[Tensor, " ... d_in"]
) -> Float[Tensor, " ... d_out"]:
    linear = layers.Linear(d_in, d_out)
    with torch.no_grad():
        linear.weight.copy_(weights)
    return linear(in_features)


def run_embedding(vocab_size, d_model, weights, token_ids):
    embedding = layers.Embedding(vocab_size, d_model)
    embedding.weight.data = weights
    return embedding(token_ids)


def run_swiglu(d_model, d_ff, w1_weight, w2_weight, w3_weight, in_features):
    swiglu = layers.SwiGLU(d_model, d_ff)
    swiglu.w1.weight.data = w1_weight
    swiglu.w2.weight.data = w2_weight
    swiglu.w3.weight.data = w3_weight
    return swiglu(in_features)


def run_scaled_dot_product_attention(
    Q: Float[Tensor, " ... queries d_k"],
    K: Float[Tensor, " ... keys d_k"],
    V: Float[Tensor, " ... values d_v"],
    mask: Bool[Tensor, " ... queries keys"] | None = None,
) -> Float[Tensor, " ... queries d_v"]:
    return model.scaled_dot_product_attention(Q, K, V, mask)


def run_multihead_self_attention(
    d_model, num_heads, q_proj_weight, k_proj_weight, v_proj_weight, o_proj_weight, in_features
):
    attention = model.CausalMultiHeadSelfAttention(d_model, num_heads)
    weights = {
        "q_proj.weight": q_proj_weight,
        "k_proj.weight": k_proj_weight,
        "v_proj.weight": v_proj_weight,
        "output_proj.weight": o_proj_weight,
    }
    return load(attention, weights)(in_features)


def run_multihead_self_attention_with_rope(
    d_model: int,
    num_heads: int,
    max_seq_len: int,
    theta: float,
    q_proj_weight: Tensor,
    k_proj_weight: Tensor,
    v_proj_weight: Tensor,
    o_proj_weight: Tensor,
    in_features: Tensor,
    token_positions: Int[Tensor, " ... sequence_length"] | None = None,
):
    rope = model.RotaryPositionalEmbedding(theta, d_model // num_heads, max_seq_len)
    attention = model.CausalMultiHeadSelfAttention(d_model, num_heads, rope)
    weights = {
        "q_proj.weight": q_proj_weight,
        "k_proj.weight": k_proj_weight,
        "v_proj.weight": v_proj_weight,
        "output_proj.weight": o_proj_weight,
    }
    return load(attention, weights)(in_features, token_positions)


def run_rope(d_k, theta, max_seq_len, in_query_or_key, token_positions):
    return model.RotaryPositionalEmbedding(theta, d_k, max_seq_len)(in_query_or_key, token_positions)


def run_transformer_block(d_model, num_heads, d_ff, max_seq_len, theta, weights, in_features):
    rope = model.RotaryPositionalEmbedding(theta, d_model // num_heads, max_seq_len)
    return load(model.TransformerBlock(d_model, num_heads, d_ff, rope), weights)(in_features)


def run_transformer_lm(
    vocab_size, context_length, d_model, num_layers, num_heads, d_ff, rope_theta, weights, in_indices
):
    lm = model.TransformerLM(vocab_size, context_length, d_model, num_layers, num_heads, d_ff, rope_theta)
    return load(lm, weights)(in_indices)


def run_rmsnorm(d_model, eps, weights, in_features):
    return load(layers.RMSNorm(d_model, eps), {"weight": weights})(in_features)


def run_silu(in_features):
    return layers.silu(in_features)


def run_get_batch(dataset, batch_size, context_length, device):
    return training.get_batch(dataset, batch_size, context_length, device)


def run_softmax(in_features, dim):
    return layers.softmax(in_features, dim)


def run_cross_entropy(inputs, targets):
    return layers.cross_entropy(inputs, targets)


def run_gradient_clipping(parameters, max_l2_norm):
    training.clip(list(parameters), max_l2_norm)


def get_adamw_cls():
    return training.AdamW


def run_get_lr_cosine_schedule(it, max_learning_rate, min_learning_rate, warmup_iters, cosine_cycle_iters):
    return training.lr_cosine_schedule(
        it, max_learning_rate, min_learning_rate, warmup_iters, cosine_cycle_iters
    )


def run_save_checkpoint(model, optimizer, iteration, out):
    raise NotImplementedError


def run_load_checkpoint(src, model, optimizer):
    raise NotImplementedError


def get_tokenizer(vocab, merges, special_tokens=None):
    raise NotImplementedError


def run_train_bpe(input_path, vocab_size, special_tokens, **kwargs):
    raise NotImplementedError
