"""Make a run from a Llama that transformers saved: config.json, safetensors and tokenizer.json."""

import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import lm
from lm.backend import BackendName
from lm.config import ModelConfig, TrainConfig
from lm.files import published, refuse_existing, reserved, write_json
from lm.init import initial_moments, parameter_shapes
from lm.interop.llama import (
    check_finite,
    interleave_halves,
    is_rotated,
    llama_name,
    read_model_config,
    read_saved_json,
)
from lm.interop.tensors import DTYPES, Tensor, find_tensors
from lm.run import checkpoint
from lm.text.ends import Ends, choose_ends, read_ends
from tokenizer import Tokenizer
from tokenizer.errors import InputError


def import_llama(
    folder: Path,
    out: Path,
    backend_name: BackendName,
    context_length: int | None = None,
    with_tokenizer: bool = True,
) -> tuple[TrainConfig, Tokenizer | None]:
    """Make a run from a Llama that transformers saved: a checkpoint of step 0, which either backend can train further.

    Args:
        backend_name: The backend that later commands use for the run, if they name none.
        context_length: A shorter context than the model's own, or None.
        with_tokenizer: Whether to import tokenizer.json too, if it exists.

    Returns:
        The run's config and tokenizer. config.toml in `out` holds the model's settings, for lm train.

    Raises:
        InputError: the folder is malformed, the model needs something that ours do not support, or `out` exists.
    """
    refuse_existing(out)
    model, tensors = _find(folder, context_length)
    is_wide = any(tensor.dtype == "F64" for tensor in tensors.values())
    config = TrainConfig(model, compute_dtype="float64" if is_wide else "float32")
    tokenizer = _read_tokenizer(folder, model) if with_tokenizer else None
    ends = _read_ends(folder, model, tokenizer)

    dtype = config.param_dtype
    facts = {
        "config": asdict(config),
        "seed": config.seed,
        "threads": config.threads,
        "tokenizer_sha256": tokenizer.sha256 if tokenizer else None,
        "train_sha256": None,
        "val_sha256": None,
        **asdict(ends),
        "imported_from": os.path.abspath(folder),
        "backend": backend_name,
        "versions": {
            "twinlm": lm.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
    }
    with reserved(out), published(out) as temporary:
        temporary.mkdir()
        checkpoint.save(
            temporary / "checkpoints",
            0,
            ((name, array.astype(dtype)) for name, array in check_finite(_weights(tensors, model), folder)),
            initial_moments(model, dtype),
            {**facts, "tokens_seen": 0},
        )
        write_json(temporary / "run.json", {**facts, "train": [], "val": None, "weights": (), "floor": None})
        (temporary / "config.toml").write_text(_toml(config), encoding="utf-8", newline="")
        if tokenizer:
            tokenizer.save(temporary / "tokenizer")
    return config, tokenizer


def read_llama(folder: Path) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """Return the config and the weights, in float64 and by their names here, of a Llama that transformers saved.

    Raises:
        InputError: as `import_llama`.
    """
    model, tensors = _find(folder, None)
    weights = check_finite(_weights(tensors, model), folder)
    return model, {name: array.astype(np.float64) for name, array in weights}


def _find(folder: Path, context_length: int | None) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the config and the tensors, which fit it."""
    model = read_model_config(folder / "config.json", context_length)
    tensors = find_tensors(folder)
    if model.num_layers > len(tensors):
        raise InputError(
            f"{folder}/config.json: num_hidden_layers is {model.num_layers}, and the checkpoint holds "
            f"{len(tensors)} tensors in all"
        )
    _check_tensors(folder, tensors, model)
    return model, tensors


def _check_tensors(folder: Path, tensors: Mapping[str, Tensor], model: ModelConfig) -> None:
    """Refuse tensors that do not fit the model: one is missing, one too many, or one has another shape or type."""
    shapes = {llama_name(name): shape for name, shape in parameter_shapes(model).items()}
    for name, shape in shapes.items():
        if name not in tensors:
            raise InputError(f"{folder}: '{name}' is missing; config.json is of another model")
        found = tensors[name]
        if found.shape != shape or found.dtype not in DTYPES:
            raise InputError(
                f"{found.file}: '{name}' is {found.dtype} {found.shape}, and config.json wants {shape} of "
                f"{', '.join(DTYPES)}"
            )
    for name in tensors.keys() - shapes.keys():
        if name == "lm_head.weight":
            embeddings = tensors[llama_name("token_embeddings.weight")]
            if tensors[name].dtype in DTYPES and np.array_equal(tensors[name].read(), embeddings.read()):
                continue
            raise InputError(f"{folder}: 'lm_head.weight' is not the embeddings, but config.json ties them")
        # Old checkpoints hold RoPE's frequencies, which follow from rope_theta.
        if not name.endswith(".rotary_emb.inv_freq"):
            raise InputError(
                f"{tensors[name].file}: '{name}' is unknown to the Llama that config.json describes"
            )


def _weights(tensors: Mapping[str, Tensor], model: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    assert model.d_head is not None
    for name in parameter_shapes(model):
        array = tensors[llama_name(name)].read()
        yield name, interleave_halves(array, model.d_head) if is_rotated(name) else array


def _read_tokenizer(folder: Path, model: ModelConfig) -> Tokenizer | None:
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    try:
        tokenizer = Tokenizer.from_tokenizers_json(path)
    except InputError as error:
        raise InputError(f"{error}; --no-tokenizer imports the model alone") from None
    if tokenizer.vocab_size > model.vocab_size:
        raise InputError(
            f"{path}: has ids up to {tokenizer.vocab_size - 1}, but the model's vocab_size is {model.vocab_size}; "
            "--no-tokenizer imports the model alone"
        )
    return tokenizer


def _read_ends(folder: Path, model: ModelConfig, tokenizer: Tokenizer | None) -> Ends:
    """Return the tokens that begin and end texts.

    Each comes from the first of these that names it: generation_config.json, config.json, the files beside
    tokenizer.json, the names of the tokenizer's special tokens.

    Raises:
        InputError: a file is malformed, or names an id that the model does not have.
    """
    ids: dict[str, Any] = {}
    special = tokenizer.special_tokens if tokenizer else {}
    for file in ("generation_config.json", "config.json", "tokenizer_config.json", "special_tokens_map.json"):
        path = folder / file
        theirs = read_saved_json(path) if path.exists() else {}
        for name in ("bos_token", "eos_token"):
            text = theirs.get(name)
            text = text.get("content") if isinstance(text, dict) else text
            theirs.setdefault(f"{name}_id", special.get(text) if isinstance(text, str) else None)
        found = asdict(read_ends(theirs, model.vocab_size, str(path)))
        ids |= {name: value for name, value in found.items() if ids.get(name) is None}
    return choose_ends(tokenizer, Ends(**ids))


def _toml(config: TrainConfig) -> str:
    """Return a config file of the model's settings, for training to add its own."""
    settings = {name: value for name, value in asdict(config.model).items() if value is not None}
    lines = [f'compute_dtype = "{config.compute_dtype}"', "", "[model]"]
    # JSON's numbers, strings and booleans are TOML's too.
    return "\n".join([*lines, *(f"{name} = {json.dumps(value)}" for name, value in settings.items())]) + "\n"
