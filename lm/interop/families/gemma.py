"""Gemma 1, 2 and 3 (text)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lm.config import ModelConfig
from lm.interop.families.llama import DECODER, MODULES, QK_NORMS, SIZES, STACK, common
from lm.interop.family import Family
from lm.interop.keys import GATES, Biases, Choice, Json, Only, Setting, harmless, shown
from lm.interop.rope import Rope, RopeByLayerType
from lm.interop.windows import SomeSlide

_DECODER = DECODER | {"norm_gain": "one_plus_weight", "scale_embeddings": True}
_TANH = {"gelu_pytorch_tanh": "geglu_tanh"} | GATES
_SANDWICH = {
    "input_layernorm": "ln1",
    "post_attention_layernorm": "ln1_after",
    "pre_feedforward_layernorm": "ln2",
    "post_feedforward_layernorm": "ln2_after",
}


@dataclass(frozen=True)
class _QueryScale:
    """Scores are divided by the root of query_pre_attn_scalar, a whole number."""

    names: tuple[str, ...] = ("query_pre_attn_scalar",)

    def read(self, theirs: Json, problems: list[str]) -> dict[str, Any]:
        value = theirs.get("query_pre_attn_scalar", 256)
        return {"score_dim": None if value == theirs.get("head_dim", 256) else value}

    def write(self, model: ModelConfig) -> dict[str, Any]:
        dim = model.d_head if model.score_dim is None else model.score_dim
        assert dim is not None
        return {"query_pre_attn_scalar": round(dim)}


@dataclass(frozen=True)
class _Pattern:
    """In Gemma 3, each layer whose number, from 1, is a multiple of sliding_window_pattern is full."""

    # transformers ignores the name with an underscore, and writes layer_types beside it.
    names: tuple[str, ...] = ("sliding_window_pattern", "_sliding_window_pattern")

    def read(self, theirs: Json, problems: list[str]) -> dict[str, Any]:
        value = theirs.get("sliding_window_pattern", 6)
        if type(value) is not int or value < 1:
            problems.append(shown("sliding_window_pattern", value))
        return {}

    def write(self, model: ModelConfig) -> dict[str, Any]:
        full = [i + 1 for i in range(model.num_layers) if model.layer_type(i) == "full"]
        pattern = full[0] if full else model.num_layers + 1
        fits = full == list(range(pattern, model.num_layers + 1, pattern))
        return {"sliding_window_pattern": pattern} if fits else {}


def _not_multiples(theirs: Json) -> Callable[[int], bool]:
    pattern = theirs.get("sliding_window_pattern", 6)
    return lambda i: type(pattern) is int and pattern > 0 and (i + 1) % pattern > 0


GEMMA = Family(
    "gemma",
    "GemmaForCausalLM",
    SIZES,
    _DECODER | {"norm_position": "pre", "qk_norm": False},
    (
        *common(1e-6, 16, tied=True),
        # Old files say gelu and mean its tanh form.
        Choice("hidden_act", "ffn", _TANH | {"gelu": "geglu_tanh"}),
        Only("hidden_activation", ("gelu_pytorch_tanh", "gelu_new")),
        Setting("head_dim", "d_head", 256),
        Biases(),
        Rope(),
        Only("use_bidirectional_attention", (False,)),
    ),
    MODULES,
)
_GEMMA_2_AND_3 = (
    *common(1e-6, 4, tied=True),
    Choice("hidden_activation", "ffn", _TANH),
    harmless("hidden_act", "sliding_window_size"),
    Setting("head_dim", "d_head", 256),
    Biases(),
    _QueryScale(),
    Only("use_bidirectional_attention", (False,)),
)
GEMMA2 = Family(
    "gemma2",
    "Gemma2ForCausalLM",
    SIZES,
    _DECODER | {"norm_position": "sandwich", "qk_norm": False},
    (
        *_GEMMA_2_AND_3,
        Rope(),
        SomeSlide(lambda theirs: lambda i: i % 2 == 0),
        Setting("final_logit_softcapping", "logit_softcap", 30.0, null=None),
        Setting("attn_logit_softcapping", "score_softcap", 50.0, null=None),
    ),
    STACK | _SANDWICH,
    divides_width=True,
)
GEMMA3 = Family(
    "gemma3_text",
    "Gemma3ForCausalLM",
    SIZES,
    _DECODER | {"norm_position": "sandwich", "qk_norm": True, "qk_norm_over": "head"},
    (
        *_GEMMA_2_AND_3,
        RopeByLayerType(),
        SomeSlide(_not_multiples),
        _Pattern(),
        Setting("final_logit_softcapping", "logit_softcap", None),
        # transformers reads it, and never applies it.
        harmless("attn_logit_softcapping"),
    ),
    STACK | QK_NORMS | _SANDWICH,
    divides_width=True,
)
