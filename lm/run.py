"""The folder of a run: run.json (what it is), tokenizer/, metrics.jsonl and checkpoints/."""

import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import lm
from lm import checkpoint
from lm.backend import Backend
from lm.config import TrainConfig, from_dict
from lm.data import file_sha256, read_sidecar
from lm.files import write_json
from lm.init import optimizer_shapes, parameter_shapes
from tokenizer import Tokenizer
from tokenizer.errors import InputError


def tokenizer_of(tokens_path: Path) -> Tokenizer | None:
    """The tokenizer that a token file was encoded with, where its sidecar names one.

    Raises:
        InputError: the tokenizer is gone, or is another one by now.
    """
    facts = read_sidecar(tokens_path)
    if "tokenizer" not in facts:
        return None
    folder = tokens_path.parent / facts["tokenizer"]
    tokenizer = Tokenizer.load(folder)
    if tokenizer.sha256 != facts["tokenizer_sha256"]:
        raise InputError(f"{folder}: not what {tokens_path} was encoded with; encode the text again")
    return tokenizer


def describe(config: TrainConfig, train_path: Path, val_path: Path) -> dict[str, Any]:
    """What identifies a run, in its checkpoints too: config and hashes of everything that it reads."""
    tokenizer = tokenizer_of(train_path)
    return {
        "config": asdict(config),
        "seed": config.seed,
        "threads": config.threads,
        "tokenizer_sha256": tokenizer.sha256 if tokenizer else None,
        "train_sha256": file_sha256(train_path),
        "val_sha256": file_sha256(val_path),
    }


def versions(backend: Backend) -> dict[str, str]:
    """Versions of everything that a run's numbers may depend on."""
    return {
        "twinlm": lm.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        **backend.versions(),
    }


def create(run: Path, facts: dict[str, Any], train_path: Path, val_path: Path) -> None:
    """Make the folder of a new run, with run.json and a copy of the tokenizer."""
    run.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer_of(train_path)
    if tokenizer:
        tokenizer.save(run / "tokenizer")
    write_json(
        run / "run.json", {**facts, "train": os.path.abspath(train_path), "val": os.path.abspath(val_path)}
    )


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a run; `path` is its folder or a checkpoint's."""
    folder = checkpoint.latest(path).resolve().parents[1] / "tokenizer"
    if not folder.is_dir():
        raise InputError(f"{folder} is missing: the run was trained on a token file that names no tokenizer")
    return Tokenizer.load(folder)


def load_facts(step_path: Path) -> tuple[TrainConfig, dict[str, Any]]:
    """The config and state.json of a checkpoint, whose files are verified."""
    facts = checkpoint.read_state(step_path)
    return from_dict(TrainConfig, facts.get("config"), f"{step_path}/state.json"), facts


def load_state(step_path: Path, config: TrainConfig, backend: Backend, with_optimizer: bool) -> Any:
    """The state of a checkpoint, of which every leaf fits the config."""
    dtype = config.param_dtype
    weights = {name: (shape, dtype) for name, shape in parameter_shapes(config.model).items()}
    moments = {name: (shape, dtype) for name, shape in optimizer_shapes(config.model).items()}
    return backend.load_state(
        config,
        checkpoint.read_leaves(step_path / "model.safetensors", weights),
        checkpoint.read_leaves(step_path / "optimizer.safetensors", {**moments, "step": ((), "int32")})
        if with_optimizer
        else None,
    )


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    with (run / "metrics.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
