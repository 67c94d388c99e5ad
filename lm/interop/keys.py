"""What the keys of a config.json mean: the building blocks of each family's table.

A block knows one key or a few. `read` returns the settings of ours that the keys mean, and appends what our models do
not support to `problems`. `write` is its inverse.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lm.config import ModelConfig

Json = Mapping[str, Any]
"""A config.json, or a table in it."""


class Keys(Protocol):
    """Meaning of some keys of a config.json."""

    @property
    def names(self) -> tuple[str, ...]:
        """The keys."""

    def read(self, theirs: Json, problems: list[str]) -> dict[str, Any]:
        """Return our settings."""

    def write(self, model: ModelConfig) -> dict[str, Any]:
        """Return the keys' values for a model."""


def shown(key: str, value: Any) -> str:
    """Return a key and its value for an error; a long value is cut.

    >>> shown("hidden_act", "gelu")
    "hidden_act 'gelu'"
    """
    text = repr(value)
    return f"{key} {text if len(text) <= 80 else text[:77] + '...'}"


@dataclass(frozen=True)
class Setting:
    """A key whose value is the value of one of our settings."""

    key: str
    ours: str
    missing: Any
    """Value if the key is missing: the default of transformers' class."""
    null: Any = ...
    """Meaning of null. `...`: as if the key were missing."""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.key,)

    def read(self, theirs: Json, problems: list[str]) -> dict[str, Any]:
        value = theirs.get(self.key, self.missing)
        if value is None:
            value = self.missing if self.null is ... else self.null
        return {self.ours: value}

    def write(self, model: ModelConfig) -> dict[str, Any]:
        return {self.key: getattr(model, self.ours)}


@dataclass(frozen=True)
class Choice:
    """A key whose values have other names here."""

    key: str
    ours: str
    values: Mapping[Any, Any]
    """Our value for each of theirs. The first of theirs is the default, and the first with our value is written."""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.key,)

    def read(self, theirs: Json, problems: list[str]) -> dict[str, Any]:
        value = theirs.get(self.key)
        if value is None:
            value = next(iter(self.values))
        if not isinstance(value, str | bool) or value not in self.values:
            problems.append(shown(self.key, value))
            return {}
        return {self.ours: self.values[value]}

    def write(self, model: ModelConfig) -> dict[str, Any]:
        ours = getattr(model, self.ours)
        fitting = [theirs for theirs, value in self.values.items() if value == ours]
        return {self.key: fitting[0] if fitting else next(iter(self.values))}


@dataclass(frozen=True)
class Only:
    """A key that our models support at its default alone."""

    key: str
    values: tuple[Any, ...]
    """The supported values. null is supported, too."""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.key,)

    def read(self, theirs: Json, problems: list[str]) -> dict[str, Any]:
        value = theirs.get(self.key)
        if value is not None and value not in self.values:
            problems.append(shown(self.key, value))
        return {}

    def write(self, model: ModelConfig) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Harmless:
    """Keys that change nothing in what a model computes, whatever their values."""

    names: tuple[str, ...]

    def read(self, theirs: Json, problems: list[str]) -> dict[str, Any]:
        return {}

    def write(self, model: ModelConfig) -> dict[str, Any]:
        return {}


def harmless(*names: str) -> Harmless:
    """Return the block of keys that change nothing."""
    return Harmless(names)


@dataclass(frozen=True)
class Biases:
    """Keys that give attention's four projections, and perhaps the feed-forward layer, biases."""

    feed_forward: str | None = None
    """The feed-forward layer's key."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("attention_bias", self.feed_forward) if self.feed_forward else ("attention_bias",)

    def read(self, theirs: Json, problems: list[str]) -> dict[str, Any]:
        found = {}
        for key in self.names:
            value = theirs.get(key)
            if value not in (None, False, True):
                problems.append(shown(key, value))
            found[key] = bool(value)
        attention, rest = found["attention_bias"], found.get(self.feed_forward or "", False)
        return {"bias": rest, "attention_bias": _attention_bias(attention, rest)}

    def write(self, model: ModelConfig) -> dict[str, Any]:
        written = {"attention_bias": model.has_bias_of_output}
        return written | ({self.feed_forward: model.bias} if self.feed_forward else {})


def _attention_bias(attention: bool, rest: bool) -> str:
    if attention == rest:
        return "as bias"
    return "all" if attention else "none"


GATES: dict[Any, Any] = {
    "silu": "swiglu",
    "swish": "swiglu",
    "gelu_pytorch_tanh": "geglu_tanh",
    "gelu_new": "geglu_tanh",
}
"""Our feed-forward layer for the activation of a gate."""

_IGNORED = (
    # Where a file came from, who wrote it, and how its weights are stored or computed with.
    *(
        "_name_or_path",
        "name_or_path",
        "_commit_hash",
        "transformers_version",
        "auto_map",
        "torch_dtype",
        "dtype",
    ),
    *("_attn_implementation", "_attn_implementation_autoset", "attn_implementation", "use_bfloat16"),
    *("_attn_implementation_internal", "_experts_implementation_internal", "transformers.js_config"),
    *("cache_implementation", "use_cache", "gradient_checkpointing", "chunk_size_feed_forward"),
    *("torchscript", "tf_legacy_loss", "unsloth_version", "unsloth_fixed"),
    # What a model returns beside its logits.
    *("return_dict", "output_attentions", "output_hidden_states", "tie_last_hidden_states", "output_past"),
    # Initial weights, and heads of other tasks.
    *(
        "initializer_range",
        "finetuning_task",
        "problem_type",
        "num_labels",
        "_num_labels",
        "id2label",
        "label2id",
    ),
    *("task_specific_params", "tokenizer_class", "prefix"),
    # Encoders and cross-attention, which `Only` refuses.
    *("is_decoder", "tie_encoder_decoder", "cross_attention_hidden_size", "decoder_start_token_id"),
    # Tokens: `lm.text.ends` reads those that begin and end a text.
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id"),
    # Sampling, as old files set it here; `lm generate` has flags.
    *(
        "max_length",
        "min_length",
        "do_sample",
        "early_stopping",
        "num_beams",
        "num_beam_groups",
        "temperature",
    ),
    *("top_k", "top_p", "typical_p", "diversity_penalty", "repetition_penalty", "length_penalty"),
    *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "num_return_sequences", "output_scores"),
    *("bad_words_ids", "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id"),
    *(
        "remove_invalid_values",
        "exponential_decay_length_penalty",
        "suppress_tokens",
        "begin_suppress_tokens",
    ),
)
EVERY_FAMILY: tuple[Keys, ...] = (
    harmless(*_IGNORED),
    Only("is_encoder_decoder", (False,)),
    Only("add_cross_attention", (False,)),
    Only("is_causal", (True,)),
    Only("pruned_heads", ({},)),
    Only("quantization_config", ()),
    Only("compression_config", ()),
    Only("per_layer_config", ({},)),
)
"""Keys of the base class of all configs."""
