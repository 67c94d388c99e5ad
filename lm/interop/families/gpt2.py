"""GPT-2."""

from dataclasses import dataclass
from typing import Any

from lm.config import ModelConfig
from lm.interop.family import Family
from lm.interop.keys import Choice, Json, Only, Setting, harmless

_ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True)
class _Inner:
    """Width of the feed-forward layer. null: 4 n_embd."""

    names: tuple[str, ...] = ("n_inner",)

    def read(self, theirs: Json, problems: list[str]) -> dict[str, Any]:
        value = theirs.get("n_inner")
        return {"d_ff": 4 * theirs["n_embd"] if value is None else value}

    def write(self, model: ModelConfig) -> dict[str, Any]:
        return {"n_inner": None if model.d_ff == 4 * model.d_model else model.d_ff}


GPT2 = Family(
    "gpt2",
    "GPT2LMHeadModel",
    {
        "vocab_size": "vocab_size",
        "n_positions": "context_length",
        "n_embd": "d_model",
        "n_layer": "num_layers",
        "n_head": "num_heads",
    },
    {
        "architecture": "decoder",
        "norm": "layernorm",
        "norm_gain": "weight",
        "norm_position": "pre",
        "block": "sequential",
        "position": "learned",
        "bias": True,
        "qk_norm": False,
    },
    (
        _Inner(),
        Choice("activation_function", "ffn", _ACTIVATIONS),
        Setting("layer_norm_epsilon", "norm_eps", 1e-5, null=None),
        Setting("tie_word_embeddings", "tie_embeddings", missing=True),
        Setting("embd_pdrop", "embedding_dropout", 0.1),
        Setting("attn_pdrop", "attention_dropout", 0.1),
        Setting("resid_pdrop", "residual_dropout", 0.1),
        # Without the scale, scores are q k.
        Choice("scale_attn_weights", "score_dim", {True: None, False: 1.0}),
        Only("scale_attn_by_inverse_layer_idx", (False,)),
        # The order of the operations of attention, and the size of a table that old versions kept.
        harmless("reorder_and_upcast_attn", "n_ctx"),
        # Heads of other tasks.
        harmless("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
        harmless("summary_first_dropout", "n_special", "predict_special_tokens"),
    ),
    {
        "wte": "token_embeddings",
        "wpe": "position_embeddings",
        "ln_1": "ln1",
        "attn.c_attn": "attn.q_proj attn.k_proj attn.v_proj",
        "attn.c_proj": "attn.output_proj",
        "ln_2": "ln2",
        "mlp.c_fc": "ffn.w1",
        "mlp.c_proj": "ffn.w2",
        "ln_f": "ln_final",
        "lm_head": "lm_head",
    },
    prefix="transformer.",
    layer="h.",
    transposed=frozenset({"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}),
    buffers=r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",
    aliases={
        "max_position_embeddings": "n_positions",
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
    },
)
