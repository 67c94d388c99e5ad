"""Leaves: named arrays of a model and its optimizer, in memory and in safetensors files.

A leaf is written by one process, or in shares by several. It is read slice by slice, on demand.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import numpy as np
import safetensors

from tokenizer.errors import InputError

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
# The names of our types in safetensors. Its files begin with the last of these types.
_DTYPES = {"int32": "I32", "float32": "F32", "float64": "F64"}
# Types that only exports write. NumPy has no bfloat16: its bits are whole numbers.
_NARROW = {"float16": "F16", "uint16": "BF16"}


def save_file(
    leaves: Mapping[str, Leaf | Share], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, or a process's share of it: byte for byte what safetensors would write.

    Several processes may write one file at the same time: each writes the header and then its own slices.
    """
    codes = _NARROW | _DTYPES
    ranks, offsets, end = list(codes), {}, 0
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    for name in sorted(leaves, key=lambda name: (-ranks.index(str(leaves[name].dtype)), name)):
        leaf, offsets[name] = leaves[name], end
        end += math.prod(leaf.shape) * leaf.dtype.itemsize
        header[name] = {
            "dtype": codes[str(leaf.dtype)],
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
