"""Each key of a config.json: what published ones mean, what transformers writes, what is refused by name."""

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from lm.config import ModelConfig
from lm.interop.families import FAMILIES
from lm.interop.family import meaning
from lm.interop.import_model import find_family
from lm.interop.keys import Setting
from tests.lm.interop.models import MODEL, read_json
from tokenizer import InputError

HUB: dict[str, dict[str, Any]] = read_json(Path(__file__).parent / "hub_configs.json")
"""Published config.json files, by the names of their models."""
GPT2 = {"norm": "layernorm", "position": "learned", "bias": True, "ffn": "gelu_tanh", "tie_embeddings": True}
LLAMA3 = {
    "rope_scaling": "llama3",
    "rope_theta": 5e5,
    "rope_original_context": 8192,
    "context_length": 131072,
}
GEMMA = {
    "norm_gain": "one_plus_weight",
    "scale_embeddings": True,
    "ffn": "geglu_tanh",
    "tie_embeddings": True,
}
LOCAL = ("sliding",) * 5 + ("full",)
EXPECTED: dict[str, dict[str, Any]] = {
    "openai-community/gpt2": {**GPT2, "d_ff": 3072, "embedding_dropout": 0.1, "attention_dropout": 0.1},
    "openai-community/gpt2-xl": {**GPT2, "d_ff": 6400, "num_heads": 25, "context_length": 1024},
    "meta-llama/Llama-2-7b-hf": {"d_ff": 11008, "num_kv_heads": 32, "rope_theta": 1e4, "norm_eps": 1e-5},
    "meta-llama/Meta-Llama-3-8B": {"rope_theta": 5e5, "rope_scaling": "none", "num_kv_heads": 8},
    "meta-llama/Llama-3.1-8B": {**LLAMA3, "rope_factor": 8.0, "tie_embeddings": False, "d_head": 128},
    "meta-llama/Llama-3.2-1B": {**LLAMA3, "rope_factor": 32.0, "tie_embeddings": True, "d_head": 64},
    "HuggingFaceTB/SmolLM2-135M": {"rope_theta": 1e5, "tie_embeddings": True, "num_kv_heads": 3},
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": {"d_ff": 5632, "num_kv_heads": 4, "sliding_window": None},
    "mistralai/Mistral-7B-v0.1": {"sliding_window": 4096, "layer_types": (), "context_length": 32768},
    "mistralai/Mistral-7B-v0.3": {"sliding_window": None, "rope_theta": 1e6, "vocab_size": 32768},
    "Qwen/Qwen2-0.5B": {
        "attention_bias": "qkv",
        "bias": False,
        "sliding_window": None,
        "tie_embeddings": True,
    },
    "Qwen/Qwen2.5-0.5B-Instruct": {"attention_bias": "qkv", "norm_eps": 1e-6, "context_length": 32768},
    "Qwen/Qwen3-0.6B": {"qk_norm": True, "qk_norm_over": "head", "d_head": 128, "attention_bias": "as bias"},
    "google/gemma-2b": {**GEMMA, "d_head": 256, "num_kv_heads": 1, "norm_position": "pre", "score_dim": None},
    "google/gemma-2-2b": {**GEMMA, "score_softcap": 50.0, "logit_softcap": 30.0, "norm_position": "sandwich"},
    "google/gemma-2-27b-it": {**GEMMA, "score_dim": 144.0, "d_head": 128, "layer_types": ("sliding", "full")},
    "google/gemma-3-1b-it": {**GEMMA, "layer_types": LOCAL, "sliding_rope_theta": 1e4, "rope_theta": 1e6},
    "google/gemma-3-270m": {**GEMMA, "layer_types": LOCAL, "qk_norm": True, "sliding_window": 512},
    "allenai/OLMo-2-1124-7B": {"norm_position": "branch", "qk_norm_over": "all_heads", "rope_theta": 5e5},
    "microsoft/Phi-3-mini-4k-instruct": {"sliding_window": 2047, "bias": False, "d_head": 96},
}


def read(theirs: dict[str, Any]) -> ModelConfig:
    return find_family(theirs, "config.json").read(theirs, "config.json")


def rewritten(transformers: Any, folder: Path, theirs: dict[str, Any]) -> dict[str, Any]:
    """Let transformers 5 read a config.json, and return what it writes."""
    name, values = theirs["model_type"], {k: v for k, v in theirs.items() if k != "model_type"}
    transformers.AutoConfig.for_model(name, **values).save_pretrained(folder)
    return read_json(folder / "config.json")


@pytest.mark.parametrize("name", EXPECTED)
def test_a_published_config_is_understood_and_can_be_written_again(
    transformers: Any, tmp_path: Path, name: str
) -> None:
    theirs = HUB[name]
    model = read(theirs)
    assert {key: getattr(model, key) for key in EXPECTED[name]} == EXPECTED[name]
    assert read(rewritten(transformers, tmp_path, theirs)) == model
    family = FAMILIES[theirs["model_type"]]
    assert family.differences(model) == []
    assert read(family.write(model)) == model
    # transformers 4 reads the old keys for RoPE alone.
    old = {key: value for key, value in family.write(model).items() if key != "rope_parameters"}
    assert read(old) == model
    assert read(rewritten(transformers, tmp_path, family.write(model))) == model


@pytest.mark.parametrize("name", FAMILIES)
def test_missing_keys_mean_what_they_mean_in_transformers(
    transformers: Any, tmp_path: Path, name: str
) -> None:
    sizes = {key: getattr(MODEL, ours) for key, ours in FAMILIES[name].sizes.items()}
    theirs = {"model_type": name, **sizes, "pad_token_id": None}
    if name in ("smollm3", "qwen2", "qwen3"):  # their defaults have layers without RoPE, and 32 heads
        theirs |= {"no_rope_layers": [1, 1]} if name == "smollm3" else {"num_key_value_heads": 4}
    theirs |= {"num_key_value_heads": 4} if name in ("mistral", "gemma") else {}
    assert read(rewritten(transformers, tmp_path, theirs)) == read(theirs)


@pytest.mark.parametrize("name", FAMILIES)
def test_defaults_are_those_of_the_class_in_transformers(transformers: Any, name: str) -> None:
    family, theirs = FAMILIES[name], transformers.AutoConfig.for_model(name)
    bare: dict[str, Any] = {"model_type": name} | {key: getattr(theirs, key) for key in family.sizes}
    bare |= {"no_rope_layers": [1] * theirs.num_hidden_layers} if name == "smollm3" else {}
    model = read(bare)
    for setting in family.keys:
        if isinstance(setting, Setting) and (value := getattr(theirs, setting.key, None)) is not None:
            ours = getattr(model, setting.ours)
            if setting.ours == "num_kv_heads" and ours is None:
                ours = model.num_heads
            assert (setting.key, ours) == (setting.key, value)


OPTIONS: dict[str, list[dict[str, Any]]] = {
    "gpt2": [
        {"n_inner": 40, "activation_function": "relu", "tie_word_embeddings": False},
        {"scale_attn_weights": False, "layer_norm_epsilon": 1e-3, "reorder_and_upcast_attn": True},
        {"activation_function": "silu", "attn_pdrop": 0.0, "resid_pdrop": 0.3},
    ],
    "llama": [
        {"head_dim": 6, "attention_bias": True, "rope_scaling": {"type": "linear", "factor": 4.0}},
        {"mlp_bias": True, "hidden_act": "gelu_pytorch_tanh", "attention_dropout": 0.2},
        {"rope_parameters": {"rope_type": "linear", "factor": 3, "rope_theta": 77}},
    ],
    "mistral": [{"sliding_window": 7, "head_dim": 6}],
    "qwen2": [
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "num_key_value_heads": 2},
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0, "num_key_value_heads": 2},
        {"use_sliding_window": True, "max_window_layers": 9, "num_key_value_heads": 1},
    ],
    "qwen3": [
        {
            "use_sliding_window": True,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention"],
            "num_key_value_heads": 2,
            "attention_bias": True,
        }
    ],
    "gemma": [{"num_key_value_heads": 1, "hidden_act": "silu", "attention_bias": True}],
    "gemma2": [
        {"layer_types": ["full_attention"] * 2, "attn_logit_softcapping": None, "query_pre_attn_scalar": 9},
        {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 3, "head_dim": 8},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "final_logit_softcapping": None},
    ],
    "gemma3_text": [
        {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_local_base_freq": 333.0},
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 55.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 44.0},
            },
            "sliding_window_pattern": 2,
        },
        {"layer_types": ["full_attention"] * 2, "final_logit_softcapping": 5.0},
        {"layer_types": ["sliding_attention"] * 2, "attn_logit_softcapping": 3.0},
    ],
    "olmo2": [{"num_key_value_heads": 2, "attention_bias": True, "tie_word_embeddings": True}],
    "phi3": [{"sliding_window": 5, "resid_pdrop": 0.1, "num_key_value_heads": 2}],
    "smollm3": [{"no_rope_layers": [1, 1, 0], "mlp_bias": True, "attention_bias": True}],
}


@pytest.mark.parametrize("name", FAMILIES)
def test_each_option_survives_a_writing_by_transformers_and_one_by_us(
    transformers: Any, tmp_path: Path, name: str
) -> None:
    family = FAMILIES[name]
    sizes = {key: getattr(MODEL, ours) for key, ours in family.sizes.items()}
    for options in OPTIONS[name]:
        theirs = {"model_type": name, **sizes, "pad_token_id": None, **options}
        if name not in ("gpt2", "llama"):
            theirs.setdefault("num_key_value_heads", 2)
        model = read(theirs)
        assert read(rewritten(transformers, tmp_path, theirs)) == model
        written = family.write(model)
        assert family.differences(model) == []
        assert read(written) == model
        assert read(rewritten(transformers, tmp_path, written | {"pad_token_id": None})) == model


def test_equal_models_have_equal_meanings() -> None:
    model = replace(MODEL, sliding_window=4)
    assert meaning(model) == meaning(replace(model, layer_types=("sliding", "sliding"), remat="block"))
    assert meaning(model) == meaning(replace(model, sliding_rope_theta=model.rope_theta, score_dim=4.0))
    assert meaning(model) != meaning(replace(model, layer_types=("sliding", "full")))
    assert meaning(MODEL) == meaning(replace(MODEL, attention_bias="none", rope_factor=3.0))
    assert meaning(MODEL) != meaning(replace(MODEL, attention_bias="qkv"))


LLAMA_3 = HUB["meta-llama/Llama-3.2-1B"]
PHI_3 = HUB["microsoft/Phi-3-mini-4k-instruct"]
QWEN_2 = HUB["Qwen/Qwen2-0.5B"]
GEMMA_3 = HUB["google/gemma-3-1b-it"]


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (LLAMA_3 | {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling .*yarn"),
        (LLAMA_3 | {"rope_scaling": {"rope_type": "default", "mrope_section": [2]}}, "mrope_section"),
        (LLAMA_3 | {"partial_rotary_factor": 0.5}, "has partial_rotary_factor 0.5$"),
        (
            LLAMA_3 | {"rope_interleaved": True, "hidden_act": "gelu"},
            "hidden_act 'gelu'; rope_interleaved True$",
        ),
        (LLAMA_3 | {"is_encoder_decoder": True}, "is_encoder_decoder True"),
        (LLAMA_3 | {"num_experts": 8}, "the unknown key num_experts 8$"),
        (PHI_3 | {"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "rope_scaling .*longrope"),
        (PHI_3 | {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling .*linear"),
        (PHI_3 | {"rope_parameters": {"partial_rotary_factor": 0.75}}, "partial_rotary_factor 0.75"),
        (GEMMA_3 | {"rope_scaling": {"type": "linear", "factor": 8.0}}, "full_attention .*linear"),
        (QWEN_2 | {"use_mrope": True}, "use_mrope True"),
        (QWEN_2 | {"layer_types": ["sliding_attention"] * 24}, "layer_types .* without a sliding_window"),
        (QWEN_2 | {"layer_types": ["full_attention"]}, "layer_types .*, not 24 of full_attention and"),
        (QWEN_2 | {"layer_types": ["chunked_attention"] * 24}, "layer_types .*chunked_attention.*, not 24"),
        (QWEN_2 | {"max_window_layers": None, "use_sliding_window": True}, "max_window_layers None"),
        (GEMMA_3 | {"use_bidirectional_attention": True}, "use_bidirectional_attention True"),
        (GEMMA_3 | {"rope_parameters": {"rope_theta": 5.0}}, "not a table for each layer type"),
        (GEMMA_3 | {"sliding_window_pattern": 0}, "sliding_window_pattern 0"),
        (
            GEMMA_3 | {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "rope_parameters.sliding_attention .*only full layers can have scaled RoPE",
        ),
        (GEMMA_3 | {"query_pre_attn_scalar": "wide"}, "score_dim is 'wide'"),
        (
            GEMMA_3 | {"model_type": "gemma3"},
            "model_type 'gemma3'; the families that can be imported are llama",
        ),
        (HUB["openai-community/gpt2"] | {"scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx True"),
        (HUB["openai-community/gpt2"] | {"hidden_size": 5}, "n_embd and hidden_size differ"),
        (HUB["openai-community/gpt2"] | {"add_cross_attention": True}, "add_cross_attention True"),
        (LLAMA_3 | {"model_type": "smollm3"}, r"no_rope_layers \[1, 2, 3, 0.*: layers without RoPE"),
        (LLAMA_3 | {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        (LLAMA_3 | {"num_hidden_layers": 10**9}, "expected a whole number above 0 and at most 10000"),
    ],
)
def test_what_is_not_supported_is_refused_in_one_line(theirs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(theirs)
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)


CHOICES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"d_head": 8, "rope_scaling": "llama3", "rope_factor": 2.0, "attention_bias": "all"}),
    ("llama", {"ffn": "geglu_tanh", "residual_dropout": 0.1}),
    ("mistral", {"sliding_window": 4}),
    ("mistral", {"d_model": 18, "d_head": 4}),
    ("qwen2", {"attention_bias": "qkv"}),
    ("qwen3", {"qk_norm": True, "sliding_window": 4, "layer_types": ("sliding", "full")}),
    ("gpt2", {"norm": "layernorm", "position": "learned", "bias": True, "ffn": "gelu", "d_ff": 24}),
    ("olmo2", {"norm_position": "branch", "qk_norm": True, "qk_norm_over": "all_heads"}),
    ("gemma", {"norm_gain": "one_plus_weight", "scale_embeddings": True, "ffn": "geglu_tanh"}),
    ("gemma2", {"norm_gain": "one_plus_weight", "scale_embeddings": True, "norm_position": "sandwich"}),
    (
        "gemma3_text",
        {
            "norm_gain": "one_plus_weight",
            "scale_embeddings": True,
            "norm_position": "sandwich",
            "qk_norm": True,
            "sliding_window": 4,
            "sliding_rope_theta": 9.0,
        },
    ),
]


@pytest.mark.parametrize(("name", "options"), CHOICES)
def test_the_simplest_family_that_can_express_a_model_is_chosen(name: str, options: dict[str, Any]) -> None:
    model = ModelConfig(**asdict(MODEL) | options)
    fitting = [family.name for family in FAMILIES.values() if not family.differences(model)]
    assert fitting[0] == name


MALFORMED: tuple[Any, ...] = (
    None,
    "x",
    -1,
    1.5,
    [],
    {},
    [1],
    10**30,
    {"full_attention": 3},
    {"type": []},
    {"type": "llama3"},
)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_value_of_a_key_gives_a_model_or_one_line_of_error(name: str) -> None:
    family = FAMILIES[name]
    sizes = {key: getattr(MODEL, ours) for key, ours in family.sizes.items()}
    keys = [*sizes, *(key for keys in family.keys for key in keys.names), "num_hidden_layers", "pruned_heads"]
    for key in keys:
        for value in MALFORMED:
            theirs = {"model_type": name, **sizes, key: value}
            said = ""
            try:
                family.write(read(theirs))
            except InputError as error:
                said = str(error)
            assert "\n" not in said
