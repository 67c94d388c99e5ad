# mypy: ignore-errors
"""The family of torch_impl by our names: what the course's adapters do not reach."""

import numpy as np
import torch
from torch.func import functional_call

from lm.config import ModelConfig
from lm.init import rope_tables
from torch_impl.attention import Context, MultiHeadSelfAttention
from torch_impl.layers import LayerNorm
from torch_impl.masks import causal_mask
from torch_impl.model import BLOCKS, TransformerLM
from torch_impl.sequences import PrefixDecoder, TransformerEncoder


def layernorm(x, weight, bias, eps):
    return functional_call(LayerNorm(len(weight), eps), {"weight": weight, "bias": bias}, x)


def _attend(x, weights, num_heads, **options):
    module = MultiHeadSelfAttention(x.shape[-1], num_heads, **options)
    return functional_call(module, weights, (x, Context(causal_mask(x.shape[-2], x.device))))


def _projections(q, k, v, output):
    return {"q_proj.weight": q, "k_proj.weight": k, "v_proj.weight": v, "output_proj.weight": output}


def grouped_query_attention(x, q_proj, k_proj, v_proj, output_proj, num_heads, num_kv_heads):
    weights = _projections(q_proj, k_proj, v_proj, output_proj)
    return _attend(x, weights, num_heads, num_kv_heads=num_kv_heads)


def _config(weights, num_heads, T, prefix="", theta=1.0, **options):
    d_ff, d_model = weights[f"{prefix}ffn.w1.weight"].shape
    layers = sum(name.endswith("attn.q_proj.weight") for name in weights)
    vocab_size = len(weights.get("lm_head.weight", [0]))
    return ModelConfig(vocab_size, T, d_model, layers, num_heads, d_ff, theta, **options)


def _block(x, weights, num_heads, theta=None, **options):
    T = x.shape[-2]
    config = _config(weights, num_heads, T, theta=theta or 1.0, **options)
    tables = None
    if theta:
        tables = tuple(
            torch.tensor(table, dtype=torch.promote_types(x.dtype, torch.float32))
            for table in rope_tables(theta, config.d_head, np.arange(T))
        )
    context = Context(causal_mask(T, x.device), tables)
    return functional_call(BLOCKS[config.block](config), weights, (x, context))


def post_norm_block(x, weights, num_heads, theta):
    return _block(x, weights, num_heads, theta, norm_position="post")


def parallel_block(x, weights, num_heads, theta):
    return _block(x, weights, num_heads, theta, block="parallel")


def gpt2_block(x, weights, num_heads):
    return _block(x, weights, num_heads, position="learned", ffn="gelu", norm="layernorm", bias=True)


def _model(kind, weights, num_heads, T, *inputs, **options):
    config = _config(weights, num_heads, T, "layers.0.", **options)
    dtype = weights["lm_head.weight"].dtype
    return functional_call(kind(config, dtype=dtype), weights, inputs)


def learned_position_lm(token_ids, weights, num_heads):
    T = len(weights["position_embeddings.weight"])
    return _model(TransformerLM, weights, num_heads, T, token_ids, position="learned")


def transformer_encoder(token_ids, num_tokens, weights, num_heads, theta):
    T = token_ids.shape[1]
    out = _model(
        TransformerEncoder,
        weights,
        num_heads,
        T,
        token_ids,
        num_tokens,
        theta=theta,
        architecture="encoder",
    )
    return torch.where((torch.arange(T) < num_tokens[:, None])[..., None], out, 0)


def prefix_decoder(x, num_tokens, token_ids, weights, num_heads, theta):
    T = token_ids.shape[1] + x.shape[1]
    return _model(PrefixDecoder, weights, num_heads, T, x, num_tokens, token_ids, theta=theta)
