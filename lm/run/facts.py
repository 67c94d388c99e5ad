"""What identifies a run (run.json in its folder, state.json in its checkpoints), and what a resumed run may change."""

import dataclasses
import hashlib
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np

import lm
from lm.backend import Backend, BackendName
from lm.config import TrainConfig, from_dict, kind_of
from lm.data.sources import data_fingerprint
from lm.files import read_object, write_json
from lm.run import checkpoint
from lm.run.inputs import Inputs, refuse_other_tokenizer
from tokenizer import Tokenizer
from tokenizer.errors import InputError

# The settings that a resumed run may change: how long and where it runs, what it shows and keeps. All others decide its
# numbers. The number of steps may only grow.
MAY_CHANGE = {
    "steps",
    "log_interval",
    "eval_interval",
    "eval_windows",
    "patience",
    "sample_every",
    "sample_prompt",
    "skip_nonfinite",
    "peak_flops",
    "save_interval",
    "keep_last",
    "keep_best",
    "device",
    "threads",
    "fast",
    "model.remat",
}
_HASHES = {"tokenizer_sha256": "tokenizer", "train_sha256": "training data", "val_sha256": "validation data"}


def describe_run(config: TrainConfig, inputs: Inputs, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Return what identifies a run: its config, and hashes of everything that it reads.

    Raises:
        InputError: the token files were encoded with different tokenizers.
    """
    for path in (*inputs.train[1:], inputs.val):
        refuse_other_tokenizer(path, tokenizer.sha256 if tokenizer else None, str(inputs.train[0]))
    hashes = [data_fingerprint(path, config) for path in inputs.train]
    if len(hashes) > 1:
        mixture = json.dumps([hashes, inputs.weights])
        hashes = [hashlib.sha256(mixture.encode()).hexdigest()]
    return {
        "config": asdict(config),
        "seed": config.seed,
        "threads": config.threads,
        "tokenizer_sha256": tokenizer.sha256 if tokenizer else None,
        "train_sha256": hashes[0],
        "val_sha256": data_fingerprint(inputs.val, config),
    }


def versions(backend: Backend) -> dict[str, str]:
    """Return the versions of everything that a run's numbers may depend on."""
    return {
        "twinlm": lm.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        **backend.versions(),
    }


def write_run(
    run: Path, facts: dict[str, Any], inputs: Inputs, tokenizer: Tokenizer | None, floor: float | None
) -> None:
    """Write run.json and a copy of the tokenizer into a run's folder.

    Args:
        floor: The entropy floor of the validation text, or None if it is not known.
    """
    paths = {"train": [os.path.abspath(path) for path in inputs.train], "val": os.path.abspath(inputs.val)}
    # Write run.json first: a folder that holds it can be resumed, even if a crash prevented everything else.
    write_json(run / "run.json", {**facts, **paths, "weights": inputs.weights, "floor": floor})
    if tokenizer:
        tokenizer.save(run / "tokenizer")


def read_facts(run: Path) -> dict[str, Any] | None:
    """Read run.json; return None if there is none.

    Raises:
        InputError: it is corrupted.
    """
    path = run / "run.json"
    if not path.exists():
        return None
    facts = read_object(path, "delete it, or use another run")
    _check_facts(facts, path)
    if not isinstance(facts.get("floor"), float | None) or not isinstance(facts.get("versions"), dict):
        raise InputError(
            f"{path}: floor or versions are missing or malformed; it was not written by lm train"
        )
    return facts


def load_facts(step_path: Path, verify: bool = True) -> tuple[TrainConfig, dict[str, Any]]:
    """Verify a checkpoint's files and return its config and state.json."""
    facts = checkpoint.read_state(step_path, verify)
    return _check_facts(facts, step_path / "state.json"), facts


def _check_facts(facts: Any, where: Path) -> TrainConfig:
    """Check the types of the facts in run.json or state.json and return the config."""
    types = {"seed": int, "backend": str, **dict.fromkeys(_HASHES, str | None)}
    for name, of_type in types.items():
        if not isinstance(facts, dict) or not isinstance(facts.get(name, ...), of_type):
            kind = kind_of(of_type)
            raise InputError(f"{where}: {name} is missing or not {kind}; it was not written by lm train")
    if facts["backend"] not in get_args(BackendName):
        raise InputError(f"{where}: backend is {facts['backend']!r}; it was not written by lm train")
    config: TrainConfig = from_dict(TrainConfig, facts.get("config"), str(where))
    return config


def refuse_changes(facts: dict[str, Any], saved: dict[str, Any], where: Path) -> None:
    """Refuse to resume a run if something that decides its numbers has changed.

    Raises:
        InputError: names the setting or the file that differs.
    """
    now, before = (flat_settings(from_dict(TrainConfig, f["config"], str(where))) for f in (facts, saved))
    for name in now:
        if now[name] != before[name] and name not in MAY_CHANGE:
            raise InputError(
                f"{where}: {name} is {before[name]!r} in this run and {now[name]!r} in this command; "
                "give the value of this run, or start a new run"
            )
    if now["steps"] < before["steps"]:
        raise InputError(
            f"{where}: steps is {before['steps']} in this run and {now['steps']} in this command; it may only grow"
        )
    for name, what in _HASHES.items():
        if facts[name] != saved[name]:
            raise InputError(
                f"{where}: {name} differs, so the {what} is not this run's; give this run's, or start a new run"
            )


def flat_settings(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return every setting by its dotted name."""
    settings: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        settings |= flat_settings(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: value}
    return settings
