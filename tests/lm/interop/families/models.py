"""Small random models of every family by transformers' own classes, with every option away from its default."""

import contextlib
import re
from typing import Any

import numpy as np
import torch

from lm.budgets import Dtype
from tests.lm.interop.families.float64 import float64

VOCABULARY, D, LAYERS, HEADS, KV_HEADS, D_HEAD, D_FF = 50, 24, 2, 4, 2, 8, 40
CONTEXT = 40
WINDOW = 5
IDS = np.random.default_rng(1).integers(0, VOCABULARY, (2, 22))
"""Two texts that are longer than the window. The last token is only a target."""

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": D,
    "intermediate_size": D_FF,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 0.03,
    "attention_dropout": 0.0,
}
_NO_TOKENS: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
"""No text ends, and no row of the embeddings goes without gradient, as transformers' padding would."""

_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 3.0,
    "low_freq_factor": 0.5,
    "high_freq_factor": 2.0,
    "original_max_position_embeddings": 32,
}
"""Of the four wavelengths 6, 20, 63, 199 this leaves the first, blends two, and stretches the last in full."""
_LINEAR = {"rope_type": "linear", "rope_theta": 300.0, "factor": 2.5}
_THETA = {"rope_type": "default", "rope_theta": 70.0}

CASES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_positions": CONTEXT,
        "n_embd": D,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_inner": D_FF,
        "layer_norm_epsilon": 0.03,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    },
    "gpt2 untied": {
        "vocab_size": VOCABULARY,
        "n_positions": CONTEXT,
        "n_embd": D,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_inner": D_FF,
        "activation_function": "gelu",
        "scale_attn_weights": False,
        "tie_word_embeddings": False,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    },
    "llama": {
        **_SIZES,
        "rope_parameters": _LLAMA3,
        "head_dim": D_HEAD,
        "attention_bias": True,
        "tie_word_embeddings": True,
    },
    "llama linear": {**_SIZES, "rope_parameters": _LINEAR, "attention_bias": True, "mlp_bias": True},
    "mistral": {**_SIZES, "rope_parameters": _THETA, "head_dim": D_HEAD, "sliding_window": WINDOW},
    "qwen2": {
        **_SIZES,
        "rope_parameters": _THETA,
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
    },
    "qwen3": {
        **_SIZES,
        "rope_parameters": _THETA,
        "head_dim": D_HEAD,
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gemma": {**_SIZES, "rope_parameters": _THETA, "head_dim": D_HEAD},
    "gemma2": {
        **_SIZES,
        "rope_parameters": _THETA,
        "head_dim": D_HEAD,
        "query_pre_attn_scalar": 5,
        "sliding_window": WINDOW,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 2.0,
    },
    "gemma3_text": {
        **_SIZES,
        "rope_parameters": {"full_attention": _LINEAR, "sliding_attention": _THETA},
        "head_dim": D_HEAD,
        "query_pre_attn_scalar": 5,
        "sliding_window": WINDOW,
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "attention_bias": True,
        "final_logit_softcapping": 2.0,
    },
    "olmo2": {**_SIZES, "rope_parameters": _THETA, "attention_bias": True, "tie_word_embeddings": True},
    "phi3": {
        **_SIZES,
        "rope_parameters": _THETA,
        "sliding_window": WINDOW,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop"), 0.0),
    },
    "smollm3": {
        **_SIZES,
        "rope_parameters": _LINEAR,
        "no_rope_layers": [1, 1],
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "layer_types": ["full_attention", "sliding_attention"],
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": False,
    },
}
FAMILIES = [case for case in CASES if " " not in case]
"""One case of each family."""


def make(transformers: Any, case: str, outliers: bool = False) -> Any:
    """Return a float32 model whose weights are random and fit into bfloat16."""
    settings = _NO_TOKENS | CASES[case]
    config = transformers.AutoConfig.for_model(case.split()[0], **settings)
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    )
    generator = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        drawn = torch.randn(p.shape, generator=generator) * 0.25
        is_gain = p.ndim == 1 and name.endswith("weight")
        gain = 1.0 if is_gain and "gemma" not in case else 0.0
        p.data = (drawn + gain).bfloat16().float()
    if outliers:
        _add_outliers(model, case)
    return model.eval()


def _add_outliers(model: Any, case: str) -> None:
    """Give the model the outliers that trained models have.

    Two hidden channels are 50 to 100 times as large as the others after the first layer (Dettmers et al., 2022,
    section 4; Sun et al., 2024, "Massive activations in large language models"), and a norm has one large gain.
    """
    named = dict(model.named_parameters())
    if "gemma" in case:
        gains = next(p for name, p in named.items() if "post_feedforward_layernorm" in name).data
        gains[3], gains[17] = 160.0, -240.0
    else:
        matrix = next(p for name, p in named.items() if re.search(r"mlp\.(down|c)_proj\.weight", name)).data
        rows = matrix.T if case == "gpt2" else matrix
        rows[3] *= 768
        rows[17] *= -1152
    next(p for name, p in named.items() if p.ndim == 1 and name.endswith("weight")).data[5] = 24.0


def in_dtype(transformers: Any, model: Any, dtype: Dtype) -> Any:
    """Return a copy of a model in a type. In float64 the tables are float64, too: run it inside `float64`."""
    with float64() if dtype == "float64" else contextlib.nullcontext():
        copy = transformers.AutoModelForCausalLM.from_config(
            model.config, dtype=getattr(torch, dtype), attn_implementation="eager"
        )
    copy.load_state_dict(model.state_dict())
    return copy.eval()
