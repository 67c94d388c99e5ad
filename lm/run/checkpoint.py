"""Checkpoints: folders that either backend writes and reads.

`step-00001000/` holds model.safetensors (weights by name), optimizer.safetensors (`m.<name>`, `v.<name>`,
`step`), state.json (what the run was) and manifest.json (size and SHA-256 of the other three).
"""

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import numpy as np
import safetensors

from lm.files import discard, file_sha256, json_text, published, read_object
from lm.mesh import Processes
from tokenizer.errors import InputError
from tokenizer.files.publish import fsync, temporary_path

FORMAT_VERSION = 1
Index = tuple[slice, ...]
"""Start and end of a slice of a leaf in each dimension."""


@runtime_checkable
class Leaf(Protocol):
    """An array that can be read slice by slice: a NumPy array, or an array in a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __getitem__(self, index: Any, /) -> np.ndarray:
        """Return the slice at an `Index`; `...` gives the whole leaf."""


@dataclass(frozen=True)
class Share:
    """The part of a leaf that a process holds and must save."""

    shape: tuple[int, ...]
    """Shape of the whole leaf."""
    dtype: np.dtype
    slices: Callable[[], Iterable[tuple[Index, np.ndarray]]]
    """Yields the process's slices and their places. The slices of all processes make up the leaf without overlap."""


Leaves = Iterable[tuple[str, Leaf]]
Shares = Iterable[tuple[str, Share]]
_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
# The names of our types in safetensors. Its files begin with the last of these types.
_DTYPES = {"int32": "I32", "float32": "F32", "float64": "F64"}


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


def save_file(
    leaves: Mapping[str, Leaf | Share], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, or a process's share of it: byte for byte what safetensors would write.

    Several processes may write one file at the same time: each writes the header and then its own slices.
    """
    ranks, offsets, end = list(_DTYPES), {}, 0
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    for name in sorted(leaves, key=lambda name: (-ranks.index(str(leaves[name].dtype)), name)):
        leaf, offsets[name] = leaves[name], end
        end += math.prod(leaf.shape) * leaf.dtype.itemsize
        header[name] = {
            "dtype": _DTYPES[str(leaf.dtype)],
            "shape": leaf.shape,
            "data_offsets": (offsets[name], end),
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        file.truncate(start + end)
        file.write(len(text).to_bytes(8, "little") + text)
        for name, leaf in leaves.items():
            slices = leaf.slices() if isinstance(leaf, Share) else [((), leaf[...])]
            for index, array in slices:
                _write_slice(file, start + offsets[name], leaf.shape, index, array)


def _write_slice(
    file: IO[bytes], offset: int, shape: tuple[int, ...], index: Index, array: np.ndarray
) -> None:
    """Write the slice at an index of a leaf. The leaf has this shape and begins at byte `offset`."""
    stride = math.prod(shape[1:]) * array.dtype.itemsize
    offset += (index[0].start or 0) * stride if index else 0
    if array.shape[1:] == shape[1:]:  # its bytes are contiguous in the file
        file.seek(offset)
        file.write(np.ascontiguousarray(array).data)
    else:
        for i, row in enumerate(array):
            _write_slice(file, offset + i * stride, shape[1:], index[1:], row)


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


class _SavedLeaf:
    """A leaf in a safetensors file. Slices are read on demand."""

    def __init__(self, tensors: Any, name: str, shape: tuple[int, ...], dtype: str) -> None:
        self._tensors, self._name = tensors, name
        self.shape, self.dtype = shape, np.dtype(dtype)

    def __getitem__(self, index: Any) -> np.ndarray:
        if index in (..., ()):
            return self._tensors.get_tensor(self._name)
        if not range(self.shape[0])[index[0]]:  # safetensors refuses empty slices
            return np.empty((0, *self.shape[1:]), self.dtype)
        return self._tensors.get_slice(self._name)[index]


def read_leaves(
    file: Path, expected: Mapping[str, tuple[tuple[int, ...], str]]
) -> Iterator[tuple[str, Leaf]]:
    """Yield the leaves of a safetensors file, in the order of `expected`. Their arrays are read on demand.

    Args:
        expected: Shape and dtype by name.

    Raises:
        InputError: a leaf is missing or unknown, or its shape or dtype differs.
    """
    try:
        with safetensors.safe_open(file, framework="numpy") as tensors:
            names = set(tensors.keys())
            if odd := sorted(names ^ expected.keys()):
                word = "missing" if odd[0] in expected else "unknown to this model"
                raise InputError(f"{file}: {odd[0]!r} is {word}; the checkpoint is of another model")
            for name, (shape, dtype) in expected.items():
                found = tensors.get_slice(name)
                found_shape, found_dtype = tuple(found.get_shape()), found.get_dtype()
                if found_shape != shape or found_dtype != _DTYPES.get(dtype):
                    names_of = {code: name for name, code in _DTYPES.items()}
                    raise InputError(
                        f"{file}: '{name}' is {names_of.get(found_dtype, found_dtype)} {found_shape}, and this "
                        f"model has {dtype} {shape}; the checkpoint is of another model"
                    )
                yield name, _SavedLeaf(tensors, name, shape, dtype)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(
            f"{file}: not a readable safetensors file ({error}); use another checkpoint"
        ) from None


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
