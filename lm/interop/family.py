"""A family of models in Hugging Face's format: its config.json and its tensors, each a table that is read both ways."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lm.config import ModelConfig, from_dict
from lm.config.checks import MAX_LAYERS
from lm.interop.keys import EVERY_FAMILY, Json, Keys, Only, shown
from lm.interop.windows import shortest_period
from tokenizer.errors import InputError

TRAINING = ("embedding_dropout", "attention_dropout", "residual_dropout", "remat", "prefix_length")
"""Settings of ours that do not decide what a decoder computes."""


@dataclass(frozen=True)
class Family:
    """A model_type of transformers.

    A tensor's name is the prefix, for a block the layer, a module and its leaf: weight or bias.
    """

    name: str
    """Its model_type."""
    architecture: str
    """Its class with a head."""
    sizes: Mapping[str, str]
    """Keys of config.json whose values are sizes, and our names for them. None may be missing."""
    fixed: Mapping[str, Any]
    """The settings of ours that all its models have."""
    keys: tuple[Keys, ...]
    """The meaning of all other keys of its own."""
    modules: Mapping[str, str]
    """Our modules in each of its modules: one, or several that it stacks, in order."""
    prefix: str = "model."
    layer: str = "layers."
    transposed: frozenset[str] = frozenset()
    """Modules whose weights are (d_in, d_out)."""
    buffers: str = r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb(_local)?\.(original_)?inv_freq"
    """Names of tensors that follow from config.json, as a regular expression. Old checkpoints hold them."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names of its keys."""
    divides_width: bool = False
    """Whether transformers refuses a model whose d_model is not divisible by num_heads."""

    def read(self, theirs: Json, where: str, context_length: int | None = None) -> ModelConfig:
        """Return our settings of the model that a config.json describes.

        Args:
            where: Name of the file, for errors.
            context_length: A shorter context than the file's, or None.

        Raises:
            InputError: the file is malformed, or needs something that our models do not support. One line names all of
                it.
        """
        theirs = self._without_aliases(theirs, where)
        values = {ours: self._read_size(theirs, key, where) for key, ours in self.sizes.items()}
        if context_length is not None:
            if not 0 < context_length <= values["context_length"]:
                key = next(key for key, ours in self.sizes.items() if ours == "context_length")
                raise InputError(
                    f"context_length is {context_length}: give 1 to {where}'s {key} {values['context_length']}"
                )
            values["context_length"] = context_length
        problems: list[str] = []
        settings: dict[str, Any] = {**self.fixed, **values}
        for keys in self._all_keys():
            settings |= keys.read(theirs, problems)
        known = {"model_type", *self.sizes, *(name for keys in self._all_keys() for name in keys.names)}
        problems += [f"the unknown key {shown(key, theirs[key])}" for key in theirs.keys() - known]
        if problems:
            raise InputError(
                f"{where}: cannot be imported as {self.name}, because it has {'; '.join(sorted(problems))}"
            )
        if settings.get("sliding_window") is None:
            settings.pop("sliding_rope_theta", None)
        config: ModelConfig = from_dict(ModelConfig, settings, where)
        return config

    def write(self, model: ModelConfig) -> dict[str, Any]:
        """Return a config.json. If the family cannot express the model, it describes another one: see `differences`."""
        written = {key: getattr(model, ours) for key, ours in self.sizes.items()}
        for keys in self.keys:
            written |= keys.write(model)
        return {"architectures": [self.architecture], "model_type": self.name, **written}

    def differences(self, model: ModelConfig) -> list[str]:
        """Return the settings of a model that the family cannot express, each with its value."""
        ours = meaning(model)
        try:
            back = meaning(self.read(self.write(model), self.name))
        except InputError as error:
            wrong = {name for name, value in self.fixed.items() if ours.get(name, value) != value}
            return [f"{name} {ours[name]}" for name in ours if name in wrong] or [str(error)]
        found = [f"{name} {_in_words(ours[name])}" for name in ours if back.get(name) != ours[name]]
        if self.divides_width and model.d_model % model.num_heads:
            found.append(f"d_model {model.d_model} that is not divisible by num_heads {model.num_heads}")
        return found

    def _all_keys(self) -> tuple[Keys, ...]:
        headless = self.architecture.replace("ForCausalLM", "Model").replace("LMHeadModel", "Model")
        classes = Only("architectures", ([self.architecture], [headless]))
        return (*EVERY_FAMILY, classes, *self.keys)

    def _without_aliases(self, theirs: Json, where: str) -> dict[str, Any]:
        renamed: dict[str, Any] = {}
        for key, value in theirs.items():
            name = self.aliases.get(key, key)
            if renamed.setdefault(name, value) != value:
                raise InputError(f"{where}: {name} and {key} differ; correct the file")
        return renamed

    def _read_size(self, theirs: Json, key: str, where: str) -> int:
        value = theirs.get(key)
        most = MAX_LAYERS if self.sizes[key] == "num_layers" else None
        if type(value) is not int or value < 1 or (most and value > most):
            limit = f" and at most {most}" if most else ""
            raise InputError(f"{where}: {key} is {value!r}: expected a whole number above 0{limit}")
        return value


def _in_words(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)


def meaning(model: ModelConfig) -> dict[str, Any]:
    """Return the settings that decide what a decoder computes. Equal models give equal settings."""
    settings = {name: value for name, value in asdict(model).items() if name not in TRAINING}
    unused = set()
    if model.position != "rope":
        unused |= {"rope_theta", "rope_scaling", "sliding_rope_theta"}
    if model.position != "rope" or model.rope_scaling == "none":
        unused |= {"rope_factor"}
    if model.position != "rope" or model.rope_scaling != "llama3":
        unused |= {"rope_low_freq_factor", "rope_high_freq_factor", "rope_original_context"}
    if not model.qk_norm:
        unused |= {"qk_norm_over"}
    if model.norm == "none":
        unused |= {"norm_gain", "norm_position"} if not model.qk_norm else {"norm_position"}
    settings = {name: value for name, value in settings.items() if name not in unused}
    types = [model.layer_type(i) for i in range(model.num_layers)]
    settings["layer_types"] = shortest_period(types) if "sliding" in types else ()
    biases = (model.has_bias_of_qkv, model.has_bias_of_output)
    settings["attention_bias"] = {(True, True): "all", (True, False): "qkv"}.get(biases, "none")
    settings["score_dim"] = model.score_dim or float(model.d_head or 0)
    if model.sliding_rope_theta is None and "sliding_rope_theta" in settings and model.rope_scaling == "none":
        settings["sliding_rope_theta"] = model.rope_theta if "sliding" in types else None
    return settings
