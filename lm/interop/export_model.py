"""Write a model in Hugging Face's format: config.json, safetensors and tokenizer.json."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm.config import ModelConfig
from lm.files import published, refuse_existing, reserved, write_json
from lm.interop.families import FAMILIES
from lm.interop.family import Family, meaning
from lm.interop.layout import layouts, with_prefix
from lm.interop.origin import Origin, read_origin
from lm.interop.tensors import check_finite, narrowed
from lm.run.facts import load_facts
from lm.run.leaves import Leaves, save_file
from lm.run.loading import load_ends, trained_weights
from lm.text.ends import Ends
from tokenizer import Tokenizer
from tokenizer.errors import InputError


@dataclass(frozen=True)
class Exported:
    """What an export has written."""

    family: Family
    dtypes: tuple[str, ...]
    """The types of the tensors, the widest first."""
    widened: int
    """Number of tensors that were narrower in the imported folder. Training has changed them since."""


def export_model(
    step_path: Path, tokenizer: Tokenizer | None, out: Path, family_name: str | None = None
) -> Exported:
    """Write a checkpoint as a folder that transformers' AutoModelForCausalLM and AutoTokenizer load.

    Args:
        family_name: The model_type to write, or None for the one that the model came from, or the simplest.

    Raises:
        InputError: the family, or no family, can express the model, or `out` exists.
    """
    refuse_existing(out)
    config, facts = load_facts(step_path)
    model = config.model
    origin = read_origin(facts, str(step_path / "state.json"))
    family = choose_family(model, step_path, family_name, origin)
    if origin and origin.config["model_type"] != family.name:
        origin = None
    weights = trained_weights(step_path, config)
    ends = load_ends(step_path, tokenizer)
    with reserved(out), published(out) as temporary:
        temporary.mkdir()
        exported = write_model(family, model, check_finite(weights, step_path), temporary, ends, origin)
        if tokenizer:
            _write_tokenizer(tokenizer, ends, model.context_length, temporary)
    return exported


def choose_family(
    model: ModelConfig, where: Path, name: str | None = None, origin: Origin | None = None
) -> Family:
    """Return the family with this name, or the one that a model came from, or the simplest that can express it.

    Raises:
        InputError: it, or none, can express the model. The error names what the nearest family lacks.
    """
    first = [name] if name else [origin.config["model_type"]] if origin else []
    candidates = [FAMILIES[one] for one in (first if name else [*first, *FAMILIES])]
    lacks = [(family, family.differences(model)) for family in candidates]
    family, settings = min(lacks, key=lambda pair: len(pair[1]))  # the first of the nearest
    if settings:
        which = "" if name else "the nearest family, "
        raise InputError(
            f"{where}: {which}{family.name}, cannot express {', '.join(settings)}; export a model without, or choose "
            "another --family"
        )
    return family


def write_model(
    family: Family,
    model: ModelConfig,
    weights: Leaves,
    folder: Path,
    ends: Ends,
    origin: Origin | None = None,
) -> Exported:
    """Write config.json, generation_config.json and model.safetensors of a model that the family can express.

    Args:
        origin: The folder that the model came from. Its names, types and settings are kept if they still hold.
    """
    ours = {name: leaf[...] for name, leaf in weights}
    prefix = origin.prefix if origin else family.prefix
    theirs = {
        with_prefix(prefix, layout.name): layout.to_theirs(ours) for layout in layouts(family, model).values()
    }
    if origin and origin.has_head and "lm_head.weight" not in theirs:
        theirs["lm_head.weight"] = ours["token_embeddings.weight"]
    widened = 0
    for name in theirs if origin else ():
        assert origin is not None
        narrow = narrowed(theirs[name], origin.other_types.get(name, origin.type))
        widened += narrow is None
        theirs[name] = theirs[name] if narrow is None else narrow
    save_file(theirs, folder / "model.safetensors", {"format": "pt"})
    dtypes = sorted({array.dtype for array in theirs.values()}, key=lambda dtype: -dtype.itemsize)
    names = tuple("bfloat16" if dtype == np.uint16 else str(dtype) for dtype in dtypes)
    if origin is None:
        config = family.write(model) | asdict(ends) | {"pad_token_id": None, "dtype": names[0]}
    else:
        config = _changed_config(family, model, origin)
        if widened:
            config.pop("torch_dtype", None)
            config["dtype"] = names[0]
    write_json(folder / "config.json", config)
    # No sampling settings: transformers then takes the likeliest token.
    generation = origin.generation_config if origin else asdict(ends)
    if generation is not None:
        write_json(folder / "generation_config.json", generation)
    return Exported(family, names, widened)


def _changed_config(family: Family, model: ModelConfig, origin: Origin) -> dict[str, Any]:
    """Return the config.json that a model came from, with the settings that have changed since."""
    before, now = family.write(family.read(origin.config, "origin")), family.write(model)

    def replaced(changed: dict[str, Any]) -> dict[str, Any]:
        outdated = {*changed, *(before.keys() - now.keys())}
        return {k: v for k, v in origin.config.items() if family.aliases.get(k, k) not in outdated} | changed

    config = replaced({key: value for key, value in now.items() if before.get(key, ...) != value})
    # A key that was missing may follow from one that has changed. Then all keys are written.
    return config if meaning(family.read(config, "origin")) == meaning(model) else replaced(now)


def _write_tokenizer(tokenizer: Tokenizer, ends: Ends, context_length: int, folder: Path) -> None:
    tokenizer.save_tokenizers_json(folder / "tokenizer.json")
    texts: dict[int | None, str] = {i: text for text, i in tokenizer.special_tokens.items()}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": texts.get(ends.bos_token_id),
        "eos_token": next((texts[i] for i in ends.stop if i in texts), None),
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length,
        # Without this, transformers 4 also makes token_type_ids, which its Llama refuses.
        "model_input_names": ["input_ids", "attention_mask"],
    }
    write_json(folder / "tokenizer_config.json", config)
