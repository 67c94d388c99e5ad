"""Models in Hugging Face's format of Llama (config.json, safetensors, tokenizer.json), out and in.

Llama is this project's decoder with RMSNorm, RoPE and SwiGLU under other names, but that RoPE rotates the pairs
(p, p + d_head / 2) of a head where ours rotates (2p, 2p + 1): the rows of the query and key projections change places.
"""

import json
import math
import os
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors

import lm
from lm.backend import BackendName
from lm.config import ModelConfig, TrainConfig, from_dict
from lm.files import json_text, published, read_object, refuse_existing, require_file, reserved, write_json
from lm.init import initial_moments, parameter_shapes
from lm.run import checkpoint
from lm.run.facts import load_facts
from lm.run.loading import load_ends
from lm.text.ends import Ends, choose_ends, read_ends
from tokenizer import Tokenizer
from tokenizer.errors import InputError

# What a Llama is, in our words.
_LLAMA = {
    "architecture": "decoder",
    "norm": "rmsnorm",
    "norm_position": "pre",
    "block": "sequential",
    "position": "rope",
    "ffn": "swiglu",
    "qk_norm": False,
}
_MODULES = {
    "token_embeddings": "model.embed_tokens",
    "ln1": "input_layernorm",
    "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.output_proj": "self_attn.o_proj",
    "ln2": "post_attention_layernorm",
    "ffn.w1": "mlp.gate_proj",
    "ffn.w2": "mlp.down_proj",
    "ffn.w3": "mlp.up_proj",
    "ln_final": "model.norm",
    "lm_head": "lm_head",
}
_SIZES = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "context_length",
    "hidden_size": "d_model",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "d_ff",
}
# What config.json may say, if it says anything, of what our models do in one way only.
_KNOWN: dict[str, tuple[Any, ...]] = {
    "model_type": ("llama",),
    "architectures": (["LlamaForCausalLM"], None),
    "hidden_act": ("silu", "swish"),
    "sliding_window": (None,),
    "partial_rotary_factor": (1, None),
    "quantization_config": (None,),
}
# How NumPy reads what safetensors holds; of bfloat16, which it has no type for, the bits.
_DTYPES = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "BF16": "<u2"}


def llama_name(name: str) -> str:
    """What Llama calls a parameter of ours.

    >>> llama_name("layers.0.attn.output_proj.weight")
    'model.layers.0.self_attn.o_proj.weight'
    """
    parts = re.fullmatch(r"(layers\.\d+\.)?(.+)\.(weight|bias)", name)
    assert parts is not None
    layer, module, leaf = parts.groups()
    return f"{f'model.{layer}' if layer else ''}{_MODULES[module]}.{leaf}"


def half_split(rows: np.ndarray, d_head: int) -> np.ndarray:
    """Of each head, first the rows 0, 2, 4, ..., then 1, 3, 5, ...: the order of Llama's RoPE from that of ours."""
    return rows.reshape(-1, d_head // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def interleaved(rows: np.ndarray, d_head: int) -> np.ndarray:
    """The inverse of `half_split`."""
    return rows.reshape(-1, 2, d_head // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _is_rotated(name: str) -> bool:
    return ".q_proj." in name or ".k_proj." in name


def export_llama(step_path: Path, tokenizer: Tokenizer | None, out: Path) -> None:
    """Write a checkpoint as a folder that transformers' AutoModelForCausalLM and AutoTokenizer load.

    Raises:
        InputError: Llama's format cannot express the model, or `out` exists.
    """
    refuse_existing(out)
    config, _ = load_facts(step_path)
    model = config.model
    odd = [
        f"{name} {getattr(model, name)}" for name, value in _LLAMA.items() if getattr(model, name) != value
    ]
    if odd:
        fitting = ", ".join(f"{name} {value}" for name, value in _LLAMA.items())
        raise InputError(
            f"{step_path}: Llama's format cannot express {', '.join(odd)}; export a model of {fitting}"
        )
    expected = {name: (shape, config.param_dtype) for name, shape in parameter_shapes(model).items()}
    weights = checkpoint.read_slices(step_path / "model.safetensors", expected)
    ends = load_ends(step_path, tokenizer)
    with reserved(out), published(out) as temporary:
        temporary.mkdir()
        write_llama(model, _finite(weights, step_path), temporary, asdict(ends))
        # Greedy, as transformers does where nothing else is said.
        text = json_text(asdict(ends))
        (temporary / "generation_config.json").write_text(text, encoding="utf-8", newline="")
        if tokenizer:
            tokenizer.save_tokenizers_json(temporary / "tokenizer.json")
            texts: dict[int | None, str] = {i: text for text, i in tokenizer.special_tokens.items()}
            tokenizer_config = {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": texts.get(ends.bos_token_id),
                "eos_token": next((texts[i] for i in ends.stop if i in texts), None),
                "clean_up_tokenization_spaces": False,
                "model_max_length": model.context_length,
                # transformers 4 would make token_type_ids too, which its Llama refuses.
                "model_input_names": ["input_ids", "attention_mask"],
            }
            (temporary / "tokenizer_config.json").write_text(
                json_text(tokenizer_config), encoding="utf-8", newline=""
            )


def write_llama(
    model: ModelConfig,
    weights: checkpoint.Leaves,
    folder: Path,
    ends: Mapping[str, int | list[int] | None],
) -> None:
    """Write config.json and model.safetensors of a model that Llama's format can express."""
    theirs = {
        llama_name(name): np.ascontiguousarray(half_split(leaf[...], model.d_head))
        if _is_rotated(name)
        else leaf[...]
        for name, leaf in weights
    }
    checkpoint.save_file(theirs, folder / "model.safetensors", {"format": "pt"})
    dtype = str(next(iter(theirs.values())).dtype)
    (folder / "config.json").write_text(
        json_text(_llama_config(model, dtype) | dict(ends)), encoding="utf-8", newline=""
    )


def _finite(weights: checkpoint.Leaves, where: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The weights, all of which a model can compute with.

    Raises:
        InputError: one holds NaN or infinity; names it.
    """
    for name, leaf in weights:
        array = leaf[...]
        if not np.isfinite(array).all():
            raise InputError(
                f"{where}: '{name}' holds numbers that are not finite; take an earlier checkpoint, or fetch it again"
            )
        yield name, array


def _llama_config(model: ModelConfig, dtype: str) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **{theirs: getattr(model, ours) for theirs, ours in _SIZES.items()},
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.d_head,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_eps,
        # The second is where transformers 4 looks.
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "rope_theta": model.rope_theta,
        "attention_bias": model.bias,
        "mlp_bias": model.bias,
        "attention_dropout": model.attention_dropout,
        "tie_word_embeddings": model.tie_embeddings,
        "dtype": dtype,
    }


def import_llama(
    folder: Path,
    out: Path,
    backend_name: BackendName,
    context_length: int | None = None,
    with_tokenizer: bool = True,
) -> tuple[TrainConfig, Tokenizer | None]:
    """Make a run of a Llama checkpoint as transformers saves it: a step 0 that either backend trains on from.

    Args:
        backend_name: The backend that the run is used in where none is given.
        context_length: A shorter one than the checkpoint's own.
        with_tokenizer: Whether to import tokenizer.json too, where there is one.

    Returns:
        The run's config and tokenizer. config.toml in `out` has the model's settings, for lm train.

    Raises:
        InputError: the checkpoint is malformed, or does what our models do not; or `out` exists.
    """
    refuse_existing(out)
    model = _model_config(folder / "config.json", context_length)
    tensors = _find_tensors(folder)
    if model.num_layers > len(tensors):
        raise InputError(
            f"{folder}/config.json: num_hidden_layers is {model.num_layers}, and the checkpoint holds "
            f"{len(tensors)} tensors in all"
        )
    wide = any(tensor.dtype == "F64" for tensor in tensors.values())
    config = TrainConfig(model, compute_dtype="float64" if wide else "float32")
    _check_tensors(folder, tensors, model)
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
            ((name, array.astype(dtype)) for name, array in _finite(_weights(tensors, model), folder)),
            initial_moments(model, dtype),
            {**facts, "tokens_seen": 0},
        )
        write_json(temporary / "run.json", {**facts, "train": [], "val": None, "weights": (), "floor": None})
        (temporary / "config.toml").write_text(_toml(config), encoding="utf-8", newline="")
        if tokenizer:
            tokenizer.save(temporary / "tokenizer")
    return config, tokenizer


def _model_config(path: Path, context_length: int | None) -> ModelConfig:
    """Our settings for a Llama's config.json.

    Raises:
        InputError: it is malformed, or names what our models do not do; all of that, in one line.
    """
    theirs = _read_json(path)
    for name in _SIZES:
        if type(theirs.get(name)) is not int or theirs[name] < 1:
            raise InputError(f"{path}: {name} is {theirs.get(name)!r}: expected a whole number above 0")
    # transformers 4 has rope_theta beside rope_scaling.
    rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise InputError(f"{path}: rope_parameters is {rope!r}: expected a table of settings")
    odd = [
        f"{name} {theirs[name]!r}"
        for name, known in _KNOWN.items()
        if theirs.get(name, known[0]) not in known
    ]
    if theirs.get("model_type") is None:
        odd.append("no model_type")
    d_head = theirs["hidden_size"] / theirs["num_attention_heads"]
    if theirs.get("head_dim") not in (None, d_head):
        odd.append(f"head_dim {theirs['head_dim']!r}, not hidden_size / num_attention_heads")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default" or any(isinstance(value, dict) for value in rope.values()):
        odd.append(f"rope_scaling {rope!r}")
    if rope.get("partial_rotary_factor") not in (None, 1):
        odd.append(f"partial_rotary_factor {rope['partial_rotary_factor']!r}")
    biases = {name: theirs.get(name, False) for name in ("attention_bias", "mlp_bias")}
    if len(set(map(str, biases.values()))) > 1:
        odd.append(" and ".join(f"{name} {value!r}" for name, value in biases.items()))
    if odd:
        raise InputError(f"{path}: cannot be imported as a Llama, having {'; '.join(odd)}")
    values = {ours: theirs[name] for name, ours in _SIZES.items()}
    if context_length is not None:
        if not 0 < context_length <= values["context_length"]:
            raise InputError(
                f"context_length is {context_length}: give 1 to {path}'s max_position_embeddings "
                f"{values['context_length']}"
            )
        values["context_length"] = context_length
    values |= {
        "num_kv_heads": theirs.get("num_key_value_heads"),
        "norm_eps": theirs.get("rms_norm_eps", 1e-6),
        "rope_theta": rope.get("rope_theta", theirs.get("rope_theta", 10_000.0)),
        "bias": biases["mlp_bias"],
        "tie_embeddings": theirs.get("tie_word_embeddings", False),
        "attention_dropout": theirs.get("attention_dropout") or 0.0,
    }
    config: ModelConfig = from_dict(ModelConfig, values, str(path))
    return config


class _Tensor(NamedTuple):
    """Where a tensor lies, as the header of its safetensors file says."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def read(self) -> np.ndarray:
        """Its numbers; bfloat16 and float16 widened to float32."""
        array = np.fromfile(self.file, _DTYPES[self.dtype], math.prod(self.shape), offset=self.offset)
        if self.dtype == "BF16":
            # A bfloat16 is the upper half of a float32.
            array = (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return (array.astype(np.float32) if self.dtype == "F16" else array).reshape(self.shape)


def _find_tensors(folder: Path) -> dict[str, _Tensor]:
    """The tensors of a checkpoint, of one file or of several with an index.

    Raises:
        InputError: there are none, or a file or the index is malformed.
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.exists() or not index.exists():
        if not whole.exists():
            pickled = [path.name for path in sorted(folder.glob("*.bin*")) + sorted(folder.glob("*.pt*"))]
            what = (
                f"only {pickled[0]}, which can run code when it is read"
                if pickled
                else "no model.safetensors"
            )
            raise InputError(
                f"{folder}: holds {what}; save the model as safetensors, with save_pretrained of transformers 5"
            )
        return _read_header(whole)
    files = _read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(
        isinstance(name, str) and re.fullmatch(r"[^/\0]+\.safetensors", name) for name in files.values()
    ):
        raise InputError(
            f"{index}: weight_map must map each tensor to the name of a .safetensors file beside it"
        )
    shards = {file: _read_header(folder / file) for file in sorted(set(files.values()))}
    for name, file in files.items():
        if name not in shards[file]:
            raise InputError(f"{folder / file}: lacks '{name}', which {index.name} says it holds")
    return {name: shards[file][name] for name, file in files.items()}


def _read_header(file: Path) -> dict[str, _Tensor]:
    try:
        require_file(file)
        with safetensors.safe_open(file, framework="numpy"):
            pass  # checks the header, and that the file is as long as it says
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length))
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(
            f"{file}: not a readable safetensors file ({error}); fetch or save it again"
        ) from None
    return {
        name: _Tensor(file, facts["dtype"], tuple(facts["shape"]), 8 + length + facts["data_offsets"][0])
        for name, facts in header.items()
        if name != "__metadata__"
    }


def _check_tensors(folder: Path, tensors: Mapping[str, _Tensor], model: ModelConfig) -> None:
    """Refuse a checkpoint that lacks a tensor of the model, or holds another, or one of another shape."""
    shapes = {llama_name(name): shape for name, shape in parameter_shapes(model).items()}
    for name, shape in shapes.items():
        if name not in tensors:
            raise InputError(f"{folder}: '{name}' is missing; config.json is of another model")
        found = tensors[name]
        if found.shape != shape or found.dtype not in _DTYPES:
            raise InputError(
                f"{found.file}: '{name}' is {found.dtype} {found.shape}, and config.json wants {shape} of "
                f"{', '.join(_DTYPES)}"
            )
    for name in tensors.keys() - shapes.keys():
        if name == "lm_head.weight":
            embeddings = tensors[llama_name("token_embeddings.weight")]
            if tensors[name].dtype in _DTYPES and np.array_equal(tensors[name].read(), embeddings.read()):
                continue
            raise InputError(f"{folder}: 'lm_head.weight' is not the embeddings, but config.json ties them")
        # Old checkpoints hold RoPE's frequencies, which follow from rope_theta.
        if not name.endswith(".rotary_emb.inv_freq"):
            raise InputError(f"{tensors[name].file}: '{name}' is unknown to a Llama as config.json has it")


def _weights(tensors: Mapping[str, _Tensor], model: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    for name in parameter_shapes(model):
        array = tensors[llama_name(name)].read()
        yield name, interleaved(array, model.d_head) if _is_rotated(name) else array


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
    """The tokens that begin and end texts: as generation_config.json has them, or else config.json, or else the files
    beside tokenizer.json, or else what the tokenizer's own are called.

    Raises:
        InputError: a file is malformed, or names an id that the model has not.
    """
    ids: dict[str, Any] = {}
    special = tokenizer.special_tokens if tokenizer else {}
    for file in ("generation_config.json", "config.json", "tokenizer_config.json", "special_tokens_map.json"):
        path = folder / file
        theirs = _read_json(path) if path.exists() else {}
        for name in ("bos_token", "eos_token"):
            text = theirs.get(name)
            text = text.get("content") if isinstance(text, dict) else text
            theirs.setdefault(f"{name}_id", special.get(text) if isinstance(text, str) else None)
        found = asdict(read_ends(theirs, model.vocab_size, str(path)))
        ids |= {name: value for name, value in found.items() if ids.get(name) is None}
    return choose_ends(tokenizer, Ends(**ids))


def _read_json(path: Path) -> dict[str, Any]:
    return read_object(path, "give a folder that transformers saved, or save or fetch it again")


def _toml(config: TrainConfig) -> str:
    """A config file of the model's settings, which training may add its own to."""
    settings = {name: value for name, value in asdict(config.model).items() if value is not None}
    lines = [f'compute_dtype = "{config.compute_dtype}"', "", "[model]"]
    # JSON's numbers, strings and booleans are TOML's too.
    return "\n".join([*lines, *(f"{name} = {json.dumps(value)}" for name, value in settings.items())]) + "\n"
