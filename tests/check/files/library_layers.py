# mypy: ignore-errors
"""The layers of torch.nn, and those of transformers' Llama and GPT-2, as functions."""

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from transformers import GPT2Config, LlamaConfig
from transformers.models.gpt2.modeling_gpt2 import GPT2Block
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)


def softmax(x, axis):
    return F.softmax(x, axis)


def silu(x):
    return nn.SiLU()(x)


def gelu(x):
    return nn.GELU()(x)


def gelu_tanh(x):
    return nn.GELU(approximate="tanh")(x)


def cross_entropy(logits, targets):
    return nn.CrossEntropyLoss()(logits.flatten(0, -2), targets.flatten())


def linear(x, weight):
    return functional_call(nn.Linear(*weight.shape[::-1], bias=False), {"weight": weight}, x)


def embedding(weight, token_ids):
    return functional_call(nn.Embedding(*weight.shape), {"weight": weight}, token_ids)


def rmsnorm(x, weight, eps):
    return functional_call(LlamaRMSNorm(len(weight), eps), {"weight": weight}, x)


def layernorm(x, weight, bias, eps):
    return functional_call(nn.LayerNorm(len(weight), eps), {"weight": weight, "bias": bias}, x)


def swiglu(x, w1, w2, w3):
    config = LlamaConfig(
        hidden_size=x.shape[-1], intermediate_size=len(w1), num_attention_heads=1, head_dim=2
    )
    weights = {"gate_proj.weight": w1, "up_proj.weight": w3, "down_proj.weight": w2}
    return functional_call(LlamaMLP(config), weights, x)


def scaled_dot_product_attention(Q, K, V, mask=None):
    return F.scaled_dot_product_attention(Q, K, V, mask)


def multihead_self_attention(x, q_proj, k_proj, v_proj, output_proj, num_heads):
    D, T = x.shape[-1], x.shape[-2]
    module = nn.MultiheadAttention(D, num_heads, bias=False, batch_first=True)
    weights = {"in_proj_weight": torch.cat([q_proj, k_proj, v_proj]), "out_proj.weight": output_proj}
    mask = torch.triu(torch.ones(T, T, dtype=torch.bool), 1)
    flat = x.reshape(-1, T, D)
    out, _ = functional_call(module, weights, (flat, flat, flat), {"attn_mask": mask, "need_weights": False})
    return out.reshape(x.shape)


def _by_halves(weight, num_heads):
    """Llama rotates halves of a head: its rows are ours in another order."""
    return weight.reshape(num_heads, -1, 2, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


NAMES = {
    "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.output_proj": "self_attn.o_proj",
    "ln1": "input_layernorm",
    "ln2": "post_attention_layernorm",
    "ffn.w1": "mlp.gate_proj",
    "ffn.w2": "mlp.down_proj",
    "ffn.w3": "mlp.up_proj",
}


def _llama(weights, num_heads, prefix=""):
    renamed = {}
    for ours, theirs in NAMES.items():
        weight = weights[f"{prefix}{ours}.weight"]
        if ours in ("attn.q_proj", "attn.k_proj"):
            weight = _by_halves(weight, num_heads)
        renamed[f"{theirs}.weight"] = weight
    return renamed


def _config(weights, num_heads, theta, prefix="", **more):
    d_ff, d_model = weights[f"{prefix}ffn.w1.weight"].shape
    return LlamaConfig(
        hidden_size=d_model,
        intermediate_size=d_ff,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        max_position_embeddings=64,
        attn_implementation="eager",
        **more,
    )


def transformer_block(x, weights, num_heads, theta):
    config = _config(weights, num_heads, theta)
    T = x.shape[-2]
    tables = LlamaRotaryEmbedding(config)(x, torch.arange(T)[None])
    mask = torch.full((1, 1, T, T), float("-inf"), dtype=x.dtype).triu(1)
    layer = LlamaDecoderLayer(config, 0).to(x.dtype)
    out = functional_call(
        layer, _llama(weights, num_heads), (x,), {"attention_mask": mask, "position_embeddings": tables}
    )
    return out[0] if isinstance(out, tuple) else out


def transformer_lm(token_ids, weights, num_heads, theta):
    layers = sum(name.endswith("ln1.weight") for name in weights)
    vocab_size = len(weights["lm_head.weight"])
    config = _config(weights, num_heads, theta, "layers.0.", num_hidden_layers=layers, vocab_size=vocab_size)
    renamed = {
        "model.embed_tokens.weight": weights["token_embeddings.weight"],
        "model.norm.weight": weights["ln_final.weight"],
        "lm_head.weight": weights["lm_head.weight"],
    }
    for i in range(layers):
        layer = _llama(weights, num_heads, f"layers.{i}.")
        renamed |= {f"model.layers.{i}.{name}": weight for name, weight in layer.items()}
    model = LlamaForCausalLM(config).to(weights["lm_head.weight"].dtype)
    return functional_call(model, renamed, (token_ids,), {"use_cache": False}).logits


def gpt2_block(x, weights, num_heads):
    D, T = x.shape[-1], x.shape[-2]
    config = GPT2Config(
        n_embd=D,
        n_head=num_heads,
        n_inner=len(weights["ffn.w1.weight"]),
        activation_function="gelu",
        resid_pdrop=0.0,
        attn_pdrop=0.0,
        attn_implementation="eager",
    )
    names = {"ln1": "ln_1", "ln2": "ln_2", "attn.output_proj": "attn.c_proj"}
    names |= {"ffn.w1": "mlp.c_fc", "ffn.w2": "mlp.c_proj"}
    renamed = {}
    for kind in ("weight", "bias"):
        renamed[f"attn.c_attn.{kind}"] = torch.cat([weights[f"attn.{n}_proj.{kind}"] for n in "qkv"]).T
        renamed |= {f"{theirs}.{kind}": weights[f"{ours}.{kind}"].T for ours, theirs in names.items()}
    renamed = {
        n: w.T if n.endswith("bias") or ".ln" in n or n.startswith("ln") else w for n, w in renamed.items()
    }
    mask = torch.full((1, 1, T, T), torch.finfo(x.dtype).min, dtype=x.dtype).triu(1)
    out = functional_call(GPT2Block(config).to(x.dtype), renamed, (x,), {"attention_mask": mask})
    return out[0] if isinstance(out, tuple) else out
