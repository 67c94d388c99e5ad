"""Write a model as a Llama in Hugging Face's format: config.json, safetensors and tokenizer.json."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from lm.config import ModelConfig
from lm.files import published, refuse_existing, reserved, write_json
from lm.init import parameter_shapes
from lm.interop.llama import (
    check_expressible,
    check_finite,
    is_rotated,
    llama_config,
    llama_name,
    split_halves,
)
from lm.run.facts import load_facts
from lm.run.leaves import Leaves, read_leaves, save_file
from lm.run.loading import load_ends
from lm.text.ends import Ends
from tokenizer import Tokenizer


def export_llama(step_path: Path, tokenizer: Tokenizer | None, out: Path) -> None:
    """Write a checkpoint as a folder that transformers' AutoModelForCausalLM and AutoTokenizer load.

    Raises:
        InputError: Llama's format cannot express the model, or `out` exists.
    """
    refuse_existing(out)
    config, _ = load_facts(step_path)
    model = config.model
    check_expressible(model, step_path)
    expected = {name: (shape, config.param_dtype) for name, shape in parameter_shapes(model).items()}
    weights = read_leaves(step_path / "model.safetensors", expected)
    ends = load_ends(step_path, tokenizer)
    with reserved(out), published(out) as temporary:
        temporary.mkdir()
        write_llama(model, check_finite(weights, step_path), temporary, asdict(ends))
        # No sampling settings: transformers then takes the likeliest token.
        write_json(temporary / "generation_config.json", asdict(ends))
        if tokenizer:
            _write_tokenizer(tokenizer, ends, model.context_length, temporary)


def write_llama(
    model: ModelConfig,
    weights: Leaves,
    folder: Path,
    ends: Mapping[str, int | list[int] | None],
) -> None:
    """Write config.json and model.safetensors of a model that Llama's format can express."""
    assert model.d_head is not None
    theirs = {
        llama_name(name): np.ascontiguousarray(split_halves(leaf[...], model.d_head))
        if is_rotated(name)
        else leaf[...]
        for name, leaf in weights
    }
    save_file(theirs, folder / "model.safetensors", {"format": "pt"})
    dtype = str(next(iter(theirs.values())).dtype)
    write_json(folder / "config.json", llama_config(model, dtype) | dict(ends))


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
