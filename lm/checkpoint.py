"""Checkpoints: folders that either backend writes and reads.

`step-00001000/` holds model.safetensors (weights by name), optimizer.safetensors (`m.<name>`, `v.<name>`,
`step`), state.json (what the run was) and manifest.json (size and SHA-256 of the other three).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file

from lm.data import file_sha256
from lm.files import json_text, published
from tokenizer.errors import InputError

FORMAT_VERSION = 1
Leaves = Iterable[tuple[str, np.ndarray]]
_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


def save(folder: Path, step: int, weights: Leaves, optimizer: Leaves, state: dict[str, Any]) -> Path:
    """Publish the checkpoint of a step under `folder` and return its path. A reader never sees half of it."""
    path = folder / f"step-{step:08d}"
    with published(path) as temporary:
        temporary.mkdir()
        save_file(dict(weights), temporary / "model.safetensors")
        save_file(dict(optimizer), temporary / "optimizer.safetensors")
        state = {"format_version": FORMAT_VERSION, "iteration": step, **state}
        (temporary / "state.json").write_text(json_text(state), encoding="utf-8")
        manifest = {
            name: {"size": (temporary / name).stat().st_size, "sha256": file_sha256(temporary / name)}
            for name in _FILES
        }
        (temporary / "manifest.json").write_text(json_text(manifest), encoding="utf-8")
    return path


def latest(path: Path) -> Path:
    """The newest checkpoint of a run, or `path` itself where it is a checkpoint.

    Raises:
        InputError: there is none.
    """
    if (path / "manifest.json").exists():
        return path
    steps = [p for p in path.glob("checkpoints/step-*") if re.fullmatch(r"step-\d{8,}", p.name)]
    if not steps:
        raise InputError(f"{path}: holds no checkpoint; give the folder of a run that lm train has saved to")
    return max(steps, key=lambda p: int(p.name.removeprefix("step-")))


def read_state(path: Path) -> dict[str, Any]:
    """Verify every file of a checkpoint against its manifest and return state.json."""
    manifest = _read_json(path / "manifest.json")
    # Nothing vouches for the manifest itself, so it must be just what this program writes.
    exact = json_text(manifest) == (path / "manifest.json").read_text(encoding="utf-8")
    if not exact or manifest.keys() != set(_FILES):
        raise InputError(f"{path}/manifest.json: corrupted; use another checkpoint")
    for name, facts in manifest.items():
        file = path / name
        if not file.is_file():
            raise InputError(f"{file}: is missing from the checkpoint; use another one")
        if facts != {"size": file.stat().st_size, "sha256": file_sha256(file)}:
            raise InputError(f"{file}: differs from the manifest, so it is corrupted; use another checkpoint")
    state = _read_json(path / "state.json")
    if state.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path}/state.json: format_version is {state.get('format_version')}, and this program reads "
            f"{FORMAT_VERSION}; use the version of twinlm that wrote it"
        )
    return state


def read_leaves(
    file: Path, expected: Mapping[str, tuple[tuple[int, ...], str]]
) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a safetensors file, one at a time, in the order of `expected`: name -> (shape, dtype).

    Raises:
        InputError: a name is missing or unknown, or has another shape or dtype.
    """
    try:
        with safetensors.safe_open(file, framework="numpy") as tensors:
            names = set(tensors.keys())
            if odd := sorted(names ^ expected.keys()):
                word = "missing" if odd[0] in expected else "unknown to this model"
                raise InputError(f"{file}: '{odd[0]}' is {word}; the checkpoint is of another model")
            for name, (shape, dtype) in expected.items():
                array = tensors.get_tensor(name)
                if array.shape != shape or array.dtype != dtype:
                    raise InputError(
                        f"{file}: '{name}' is {array.dtype} {array.shape}, and this model has "
                        f"{dtype} {shape}; the checkpoint is of another model"
                    )
                yield name, array
    except safetensors.SafetensorError as error:
        raise InputError(
            f"{file}: not a readable safetensors file ({error}); use another checkpoint"
        ) from None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{file}: is missing from the checkpoint; use another one") from None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{file}: not a JSON object, so it is corrupted; use another checkpoint")
    return value
