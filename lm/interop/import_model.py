"""Make a run from a model that transformers saved: config.json, safetensors and tokenizer.json."""

import json
import os
import platform
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import lm
from lm.backend import BackendName
from lm.config import ModelConfig, TrainConfig
from lm.files import published, refuse_existing, reserved, write_json
from lm.init import initial_moments
from lm.interop.families import FAMILIES
from lm.interop.family import Family
from lm.interop.layout import Layout, layouts, with_prefix
from lm.interop.origin import Origin
from lm.interop.tensors import DTYPES, Tensor, check_finite, find_tensors, read_saved_json
from lm.run import checkpoint
from lm.text.ends import Ends, choose_ends, read_ends
from tokenizer import Tokenizer
from tokenizer.errors import InputError, NotByteLevel

_HEAD, _POSITIONS = "lm_head.weight", "position_embeddings.weight"


@dataclass(frozen=True)
class Imported:
    """What an import has read."""

    config: TrainConfig
    family: Family
    tokenizer: Tokenizer | None
    without_tokenizer: str
    """Why there is no tokenizer; empty if there is one."""


def import_model(
    folder: Path,
    out: Path,
    backend_name: BackendName,
    context_length: int | None = None,
    with_tokenizer: bool = True,
) -> Imported:
    """Make a run from a model that transformers saved: a checkpoint of step 0, which either backend can train further.

    Args:
        backend_name: The backend that later commands use for the run, if they name none.
        context_length: A shorter context than the model's own, or None.
        with_tokenizer: Whether to import tokenizer.json too, if it exists and is byte-level BPE.

    Returns:
        The run's config and tokenizer. config.toml in `out` holds the model's settings, for lm train.

    Raises:
        InputError: the folder is malformed, the model needs something that ours do not support, or `out` exists.
    """
    refuse_existing(out)
    saved = find_saved(folder, context_length)
    model, tensors = saved.model, saved.tensors
    is_wide = any(tensor.dtype == "F64" for tensor in tensors.values())
    config = TrainConfig(model, compute_dtype="float64" if is_wide else "float32")
    tokenizer, why = read_tokenizer(folder, model) if with_tokenizer else (None, "as --no-tokenizer says")
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
        "origin": asdict(saved.origin()),
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
            ((name, array.astype(dtype)) for name, array in check_finite(saved.weights(), folder)),
            initial_moments(model, dtype),
            {**facts, "tokens_seen": 0},
        )
        write_json(temporary / "run.json", {**facts, "train": [], "val": None, "weights": (), "floor": None})
        (temporary / "config.toml").write_text(_toml(config), encoding="utf-8", newline="")
        if tokenizer:
            tokenizer.save(temporary / "tokenizer")
    return Imported(config, saved.family, tokenizer, why)


def read_model(folder: Path) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """Return the config and the weights, in float64 and by their names here, of a model that transformers saved.

    Raises:
        InputError: as `import_model`.
    """
    saved = find_saved(folder)
    weights = check_finite(saved.weights(), folder)
    return saved.model, {name: array.astype(np.float64) for name, array in weights}


def find_family(theirs: Mapping[str, Any], where: str) -> Family:
    """Return the family that a config.json names.

    Raises:
        InputError: it names none, or one that cannot be imported.
    """
    name = theirs.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        what = "no model_type" if name is None else f"model_type {name!r}"
        raise InputError(f"{where}: has {what}; the families that can be imported are {', '.join(FAMILIES)}")
    return FAMILIES[name]


@dataclass(frozen=True)
class Saved:
    """A folder whose config.json and tensors fit each other."""

    folder: Path
    theirs: dict[str, Any]
    """config.json."""
    family: Family
    model: ModelConfig
    prefix: str
    tensors: dict[str, Tensor]
    """The tensors of weights, by their names in the folder."""
    layouts: dict[str, Layout]
    """Layout of each tensor, by the same names."""

    def weights(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield our weights. Learned positions beyond our context length are left out."""
        for name, layout in self.layouts.items():
            for ours, array in layout.to_ours(self.tensors[name].read()).items():
                yield ours, array[: self.model.context_length] if ours == _POSITIONS else array

    def origin(self) -> Origin:
        types = {name: tensor.dtype for name, tensor in self.tensors.items()}
        usual = Counter(types.values()).most_common(1)[0][0]
        path = self.folder / "generation_config.json"
        return Origin(
            self.theirs,
            read_saved_json(path) if path.exists() else None,
            self.prefix,
            _HEAD in types,
            usual,
            {name: dtype for name, dtype in types.items() if dtype != usual},
        )


def find_saved(folder: Path, context_length: int | None = None) -> Saved:
    """Read config.json and the places of the tensors, which must fit it.

    Raises:
        InputError: as `import_model`.
    """
    path = folder / "config.json"
    theirs = read_saved_json(path)
    family = find_family(theirs, str(path))
    model = family.read(theirs, str(path))
    tensors = find_tensors(folder)
    if model.num_layers > len(tensors):
        key = next(key for key, ours in family.sizes.items() if ours == "num_layers")
        raise InputError(
            f"{path}: {key} is {model.num_layers}, and the checkpoint holds {len(tensors)} tensors in all"
        )
    embeddings = next(name for name, ours in family.modules.items() if ours == "token_embeddings") + ".weight"
    prefix = "" if embeddings in tensors and family.prefix + embeddings not in tensors else family.prefix
    theirs_of = {with_prefix(prefix, layout.name): layout for layout in layouts(family, model).values()}
    _check_tensors(folder, tensors, family, theirs_of, prefix + embeddings)
    tensors = {name: tensor for name, tensor in tensors.items() if name in theirs_of or name == _HEAD}
    if context_length is not None:
        model = family.read(theirs, str(path), context_length)
    return Saved(folder, theirs, family, model, prefix, tensors, theirs_of)


def _check_tensors(
    folder: Path,
    tensors: Mapping[str, Tensor],
    family: Family,
    expected: Mapping[str, Layout],
    embeddings: str,
) -> None:
    """Refuse tensors that do not fit the model: one is missing, one too many, or one has another shape or type."""
    for name, layout in expected.items():
        if name not in tensors:
            raise InputError(f"{folder}: '{name}' is missing; config.json is of another model")
        found = tensors[name]
        if found.shape != layout.shape or found.dtype not in DTYPES:
            raise InputError(
                f"{found.file}: '{name}' is {found.dtype} {found.shape}, and config.json wants {layout.shape} of "
                f"{', '.join(DTYPES)}"
            )
    for name in tensors.keys() - expected.keys():
        if name == _HEAD:
            if tensors[name].dtype in DTYPES and np.array_equal(
                tensors[name].read(), tensors[embeddings].read()
            ):
                continue
            raise InputError(f"{folder}: '{_HEAD}' is not the embeddings, but config.json ties them")
        if not re.fullmatch(family.buffers, name):
            raise InputError(
                f"{tensors[name].file}: '{name}' is unknown to the {family.name} that config.json describes"
            )


def read_tokenizer(folder: Path, model: ModelConfig) -> tuple[Tokenizer | None, str]:
    """Return the tokenizer, or None and why there is none."""
    path = folder / "tokenizer.json"
    if not path.exists():
        return None, "since the folder has no tokenizer.json"
    try:
        tokenizer = Tokenizer.from_tokenizers_json(path)
    except NotByteLevel:
        return None, "since tokenizer.json is not byte-level BPE: give token ids, not text"
    except InputError as error:
        raise InputError(f"{error}; --no-tokenizer imports the model alone") from None
    if tokenizer.vocab_size > model.vocab_size:
        raise InputError(
            f"{path}: has ids up to {tokenizer.vocab_size - 1}, but the model's vocab_size is {model.vocab_size}; "
            "--no-tokenizer imports the model alone"
        )
    return tokenizer, ""


def _read_ends(folder: Path, model: ModelConfig, tokenizer: Tokenizer | None) -> Ends:
    """Return the tokens that begin and end texts.

    Each comes from the first of these that names it: the tokenizer, if it begins each text with a token;
    generation_config.json; config.json; the files beside tokenizer.json; the names of the tokenizer's special tokens.

    Raises:
        InputError: a file is malformed, or names an id that the model does not have.
    """
    special = tokenizer.special_tokens if tokenizer else {}
    ids: dict[str, Any] = {"bos_token_id": special.get(tokenizer.bos_token or "") if tokenizer else None}
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
