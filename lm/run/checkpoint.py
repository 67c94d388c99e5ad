"""Checkpoints: folders that either backend writes and reads.

`step-00001000/` holds model.safetensors (weights by name), optimizer.safetensors (`m.<name>`, `v.<name>`,
`step`), state.json (what the run was) and manifest.json (size and SHA-256 of the other three).
"""

import contextlib
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm.files import discard, file_sha256, json_text, published, read_object
from lm.mesh import Processes
from lm.run.leaves import Leaves, Shares, save_file
from tokenizer.errors import InputError
from tokenizer.files.publish import fsync, temporary_path

FORMAT_VERSION = 1
_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


def save(
    folder: Path,
    step: int,
    weights: Leaves | Shares,
    optimizer: Leaves | Shares,
    state: Mapping[str, Any],
    processes: Processes | None = None,
) -> Path:
    """Publish the checkpoint of a step under `folder` and return its path. A reader never sees half a checkpoint.

    Every process of a run calls this and writes what it holds. The first process publishes when all have flushed.

    Raises:
        OSError: the checkpoint cannot be written; the folder stays as it was.
        InputError: another process could not write its part; the folder stays as it was.
    """
    path, processes = folder / f"step-{step:08d}", processes or Processes()
    with processes.together(), contextlib.ExitStack() as stack:
        temporary = temporary_path(path, processes.gather(os.getpid())[0])
        with processes.together():
            if processes.is_first:
                stack.enter_context(published(path))
                temporary.mkdir()
        with processes.together():
            for name, leaves in (("model.safetensors", weights), ("optimizer.safetensors", optimizer)):
                save_file(dict(leaves), temporary / name)
                if not processes.is_first:  # publishing flushes the first process's files
                    fsync(temporary / name)
        if processes.is_first:
            state = {"format_version": FORMAT_VERSION, "iteration": step, **state}
            (temporary / "state.json").write_text(json_text(state), encoding="utf-8", newline="")
            manifest = {name: _size_and_hash(temporary / name) for name in _FILES}
            (temporary / "manifest.json").write_text(json_text(manifest), encoding="utf-8", newline="")
            if path.exists():
                # Only a broken checkpoint is written again, by a run that resumed from an older one.
                discard(path)
    return path


def find_all(run: Path) -> list[Path]:
    """Return the checkpoints of a run, newest first. They are not verified."""
    paths = [p for p in run.glob("checkpoints/step-*") if re.fullmatch(r"step-\d{8,18}", p.name)]
    return sorted(paths, key=_step, reverse=True)


def latest(path: Path) -> Path:
    """Return the newest checkpoint of a run, or `path` itself if it is a checkpoint.

    Raises:
        InputError: there is no checkpoint.
    """
    if (path / "manifest.json").exists():
        return path
    for newest in find_all(path):
        if (newest / "manifest.json").exists():
            return newest
    raise InputError(f"{path}: holds no checkpoint; give the folder of a run that lm train has saved to")


def best(run: Path) -> Path:
    """Return the checkpoint with the lowest validation loss. Only checkpoints of evaluated steps have one.

    Raises:
        InputError: no checkpoint has a validation loss.
    """
    ranked = _best_first(find_all(run))
    if not ranked:
        raise InputError(f"{run}: no checkpoint was saved at an evaluated step; train with --keep-best 1")
    return ranked[0][1]


def is_among_best(run: Path, val_loss: float, keep_best: int) -> bool:
    """Return whether a checkpoint with this validation loss would be one of the `keep_best` best."""
    if not math.isfinite(val_loss):
        return False
    best_losses = [loss for loss, _ in _best_first(find_all(run))[:keep_best]]
    return len(best_losses) < keep_best or (keep_best > 0 and val_loss < best_losses[-1])


def prune(run: Path, keep_last: int | None, keep_best: int) -> None:
    """Delete all checkpoints except the `keep_last` newest and the `keep_best` with the lowest validation loss.

    If `keep_last` is None, delete nothing.
    """
    paths = find_all(run)
    if keep_last is not None:
        kept = {*paths[:keep_last], *(path for _, path in _best_first(paths)[:keep_best])}
        for path in reversed(paths):
            if path not in kept:
                discard(path)


def read_state(path: Path, verify: bool = True) -> dict[str, Any]:
    """Verify every file of a checkpoint against its manifest and return state.json.

    Args:
        verify: If false, read state.json without verifying. In a run of several processes only the first verifies.

    Raises:
        InputError: a file is missing, is corrupted or does not belong there; the message names it.
    """
    if verify:
        _verify(path)
    state = _read_json(path / "state.json")
    if state.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path}/state.json: format_version is {state.get('format_version')!r}, and this program reads "
            f"{FORMAT_VERSION}; use the version of twinlm that wrote it"
        )
    iteration = state.get("iteration")
    if type(iteration) is not int or iteration < 0:
        raise InputError(
            f"{path}/state.json: iteration is {iteration!r}, not a number of steps; use another checkpoint"
        )
    if re.fullmatch(r"step-\d+", path.name) and iteration != _step(path):
        raise InputError(
            f"{path}/state.json: iteration is {iteration}, not what the folder says; use another checkpoint"
        )
    return state


def _verify(path: Path) -> None:
    """Compare every file with the manifest."""
    manifest = _read_json(path / "manifest.json")
    # No hash protects the manifest itself, so it must be exactly what this program writes.
    try:
        exact = json_text(manifest).encode() == (path / "manifest.json").read_bytes()
    except (ValueError, RecursionError):
        exact = False
    if not exact or list(manifest) != list(_FILES):
        raise InputError(f"{path}/manifest.json: corrupted; use another checkpoint")
    for file in sorted(path.iterdir()):
        if file.name not in (*_FILES, "manifest.json"):
            raise InputError(f"{file}: is not part of a checkpoint; move it elsewhere")
    for name, facts in manifest.items():
        file = path / name
        if not file.is_file():
            raise InputError(f"{file}: is missing from the checkpoint; use another one")
        # Compare the size first, so that a huge file is not read.
        as_claimed = isinstance(facts, dict) and facts.get("size") == file.stat().st_size
        if not as_claimed or json_text(facts) != json_text(_size_and_hash(file)):
            raise InputError(f"{file}: differs from the manifest, so it is corrupted; use another checkpoint")


def peek_state(path: Path) -> dict[str, Any]:
    """Read state.json without checking anything. Return an empty dict if it cannot be read."""
    try:
        return _read_json(path / "state.json")
    except (InputError, OSError):
        return {}


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _best_first(paths: list[Path]) -> list[tuple[float, Path]]:
    """Return the checkpoints that have a validation loss, with it, lowest first. If losses are equal, older first."""
    losses = []
    for path in paths:
        loss = peek_state(path).get("val_loss")
        if isinstance(loss, float) and math.isfinite(loss):
            losses.append((loss, path))
    return sorted(losses, key=lambda pair: (pair[0], _step(pair[1])))


def _size_and_hash(file: Path) -> dict[str, Any]:
    return {"size": file.stat().st_size, "sha256": file_sha256(file)}


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputError(f"{file}: is missing from the checkpoint; use another one")
    return read_object(file, "use another checkpoint")
