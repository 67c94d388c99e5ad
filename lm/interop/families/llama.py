"""Llama and the families that change a part of it: Mistral, Qwen 2 and 3, SmolLM 3, OLMo 2, Phi-3."""

from collections.abc import Callable
from typing import Any

from lm.config import ModelConfig
from lm.interop.family import Family
from lm.interop.keys import GATES, Biases, Choice, Json, Keys, Only, Setting, harmless, shown
from lm.interop.rope import Rope
from lm.interop.windows import AllSlide, SomeSlide

SIZES = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "context_length",
    "hidden_size": "d_model",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "d_ff",
}
DECODER = {
    "architecture": "decoder",
    "norm": "rmsnorm",
    "norm_gain": "weight",
    "block": "sequential",
    "position": "rope",
}
"""The settings of ours that all these families share."""
STACK = {
    "embed_tokens": "token_embeddings",
    "self_attn.q_proj": "attn.q_proj",
    "self_attn.k_proj": "attn.k_proj",
    "self_attn.v_proj": "attn.v_proj",
    "self_attn.o_proj": "attn.output_proj",
    "mlp.gate_proj": "ffn.w1",
    "mlp.down_proj": "ffn.w2",
    "mlp.up_proj": "ffn.w3",
    "norm": "ln_final",
    "lm_head": "lm_head",
}
MODULES = STACK | {"input_layernorm": "ln1", "post_attention_layernorm": "ln2"}
QK_NORMS = {"self_attn.q_norm": "attn.q_norm", "self_attn.k_norm": "attn.k_norm"}
GATE = Choice("hidden_act", "ffn", GATES)
DROPOUT = Setting("attention_dropout", "attention_dropout", 0.0)


def common(eps: float, kv_heads: int | None, tied: bool) -> tuple[Keys, ...]:
    """Return the keys of all these families, which have their own defaults."""
    return (
        # transformers divides by zero, or fails, without an epsilon.
        Setting("rms_norm_eps", "norm_eps", eps, null=None),
        Setting("num_key_value_heads", "num_kv_heads", kv_heads, null=None),
        Setting("tie_word_embeddings", "tie_embeddings", tied),
        DROPOUT,
    )


def _from_max_window_layers(theirs: Json) -> Callable[[int], bool]:
    """In Qwen, the layers from max_window_layers on slide."""
    first = theirs.get("max_window_layers", 28)
    return lambda i: isinstance(first, int) and i >= first


class _FirstSlidingLayer:
    """Qwen's max_window_layers, for readers that do not know layer_types."""

    names = ("max_window_layers",)

    def read(self, theirs: Json, problems: list[str]) -> dict[str, Any]:
        value = theirs.get("max_window_layers", 28)
        if type(value) is not int:
            problems.append(shown("max_window_layers", value))
        return {}

    def write(self, model: ModelConfig) -> dict[str, Any]:
        types = [model.layer_type(i) for i in range(model.num_layers)]
        return {"max_window_layers": types.index("sliding") if "sliding" in types else len(types)}


class _RopeInEachLayer:
    """The layers of SmolLM 3 that have RoPE: all must."""

    names = ("no_rope_layers", "no_rope_layer_interval")

    def read(self, theirs: Json, problems: list[str]) -> dict[str, Any]:
        n, interval = theirs["num_hidden_layers"], theirs.get("no_rope_layer_interval", 4)
        if type(interval) is not int or interval < 1:
            problems.append(shown("no_rope_layer_interval", interval))
            return {}
        has_rope = theirs.get("no_rope_layers") or [(i + 1) % interval for i in range(n)]
        if not isinstance(has_rope, list) or len(has_rope) < n or not all(has_rope[:n]):
            problems.append(f"{shown('no_rope_layers', has_rope)}: layers without RoPE")
        return {}

    def write(self, model: ModelConfig) -> dict[str, Any]:
        return {"no_rope_layers": [1] * model.num_layers}


QWEN_WINDOWS = SomeSlide(_from_max_window_layers, has_switch=True)

LLAMA = Family(
    "llama",
    "LlamaForCausalLM",
    SIZES,
    DECODER | {"norm_position": "pre", "qk_norm": False},
    (
        GATE,
        *common(1e-6, None, tied=False),
        Setting("head_dim", "d_head", None),
        Biases("mlp_bias"),
        Rope(),
        Only("sliding_window", ()),
        Only("use_sliding_window", (False,)),
        Only("rope_interleaved", (False,)),
        harmless("pretraining_tp", "is_llama_config", "max_sequence_length"),
    ),
    MODULES,
    divides_width=True,
)
MISTRAL = Family(
    "mistral",
    "MistralForCausalLM",
    SIZES,
    DECODER | {"norm_position": "pre", "qk_norm": False, "bias": False},
    (
        GATE,
        *common(1e-6, 8, tied=False),
        Setting("head_dim", "d_head", None),
        Rope(),
        AllSlide(4096),
        Only("attention_bias", (False,)),
        Only("mlp_bias", (False,)),
    ),
    MODULES,
)
QWEN2 = Family(
    "qwen2",
    "Qwen2ForCausalLM",
    SIZES,
    DECODER | {"norm_position": "pre", "qk_norm": False, "bias": False, "attention_bias": "qkv"},
    (
        GATE,
        *common(1e-6, 32, tied=False),
        Setting("head_dim", "d_head", None),
        Rope(),
        QWEN_WINDOWS,
        _FirstSlidingLayer(),
        Only("use_mrope", (False,)),
    ),
    MODULES,
)
QWEN3 = Family(
    "qwen3",
    "Qwen3ForCausalLM",
    SIZES,
    DECODER | {"norm_position": "pre", "qk_norm": True, "qk_norm_over": "head"},
    (
        GATE,
        *common(1e-6, 32, tied=False),
        Setting("head_dim", "d_head", 128),
        Biases(),
        Rope(),
        QWEN_WINDOWS,
        _FirstSlidingLayer(),
    ),
    MODULES | QK_NORMS,
)
SMOLLM3 = Family(
    "smollm3",
    "SmolLM3ForCausalLM",
    SIZES,
    DECODER | {"norm_position": "pre", "qk_norm": False},
    (
        GATE,
        *common(1e-6, 4, tied=True),
        Setting("head_dim", "d_head", None),
        Biases("mlp_bias"),
        Rope(theta=2_000_000.0),
        _RopeInEachLayer(),
        # If layer_types is missing, the layers without RoPE slide.
        SomeSlide(lambda theirs: lambda i: False, has_switch=True),
        harmless("max_window_layers", "pretraining_tp"),
    ),
    MODULES,
)
OLMO2 = Family(
    "olmo2",
    "Olmo2ForCausalLM",
    SIZES,
    DECODER | {"norm_position": "branch", "qk_norm": True, "qk_norm_over": "all_heads"},
    (
        GATE,
        *common(1e-5, None, tied=False),
        Setting("head_dim", "d_head", None),
        Biases(),
        Rope(),
    ),
    STACK | QK_NORMS | {"post_attention_layernorm": "ln1", "post_feedforward_layernorm": "ln2"},
)
_SEPARATE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
PHI3 = Family(
    "phi3",
    "Phi3ForCausalLM",
    SIZES,
    DECODER | {"norm_position": "pre", "qk_norm": False, "bias": False},
    (
        GATE,
        *common(1e-5, None, tied=False),
        Setting("head_dim", "d_head", None),
        Setting("resid_pdrop", "residual_dropout", 0.0),
        Setting("embd_pdrop", "embedding_dropout", 0.0),
        Rope(scalings=()),
        AllSlide(None),
        Only("attention_bias", (False,)),
        # Only scaled RoPE, which is refused, reads it.
        harmless("original_max_position_embeddings"),
    ),
    {theirs: ours for theirs, ours in MODULES.items() if theirs not in _SEPARATE}
    | {"self_attn.qkv_proj": "attn.q_proj attn.k_proj attn.v_proj", "mlp.gate_up_proj": "ffn.w1 ffn.w3"},
)
