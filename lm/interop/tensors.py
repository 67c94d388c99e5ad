"""The tensors of a checkpoint that another program saved, in one safetensors file or in shards with an index."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors

from lm.files import read_object, require_file
from lm.run.leaves import Leaves
from tokenizer.errors import InputError
from tokenizer.files.strict_json import parse_json

DTYPES = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "BF16": "<u2"}
"""The types of tensors that can be read, and how NumPy reads their bits. It has no type for bfloat16."""


class Tensor(NamedTuple):
    """Place of a tensor, from the header of its safetensors file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def read(self) -> np.ndarray:
        """Return the numbers. bfloat16 and float16 are widened to float32."""
        array = np.fromfile(self.file, DTYPES[self.dtype], math.prod(self.shape), offset=self.offset)
        if self.dtype == "BF16":
            # A bfloat16 is the upper half of a float32.
            array = (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return (array.astype(np.float32) if self.dtype == "F16" else array).reshape(self.shape)


def read_saved_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a folder that transformers saved."""
    return read_object(path, "give a folder that transformers saved, or save or fetch it again")


def find_tensors(folder: Path) -> dict[str, Tensor]:
    """Find the tensors of a checkpoint. If both one file and an index are there, the one file counts.

    Raises:
        InputError: there are none, or a file or the index is malformed.
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.exists():
        return _read_header(whole)
    if not index.exists():
        pickled = [path.name for path in sorted(folder.glob("*.bin*")) + sorted(folder.glob("*.pt*"))]
        what = f"only {pickled[0]}, which can run code when it is read" if pickled else "no model.safetensors"
        raise InputError(
            f"{folder}: holds {what}; save the model as safetensors, with save_pretrained of transformers 5"
        )
    files = read_saved_json(index).get("weight_map")
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


def _read_header(file: Path) -> dict[str, Tensor]:
    try:
        require_file(file)
        with safetensors.safe_open(file, framework="numpy"):
            pass  # checks the header, and that the file has the length that the header says
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = parse_json(opened.read(length).decode(), f"{file}: its header")
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(
            f"{file}: not a readable safetensors file ({error}); fetch or save it again"
        ) from None
    return {
        name: Tensor(file, facts["dtype"], tuple(facts["shape"]), 8 + length + facts["data_offsets"][0])
        for name, facts in header.items()
        if name != "__metadata__"
    }


def narrowed(array: np.ndarray, dtype: str) -> np.ndarray | None:
    """Return an array in a type of safetensors, or None if a number would change. A bfloat16 is given by its bits."""
    if dtype == "BF16":
        single = array.astype(np.float32)
        bits = single.view(np.uint32)
        fits = np.array_equal(single, array) and not (bits & np.uint32(0xFFFF)).any()
        return (bits >> np.uint32(16)).astype(np.uint16) if fits else None
    with np.errstate(over="ignore"):
        narrow = array.astype(DTYPES[dtype])
    return narrow if np.array_equal(narrow.astype(array.dtype), array) else None


def check_finite(weights: Leaves, where: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the weights.

    Raises:
        InputError: one of them holds NaN or infinity.
    """
    for name, leaf in weights:
        array = leaf[...]
        if not np.isfinite(array).all():
            raise InputError(
                f"{where}: '{name}' holds numbers that are not finite; take an earlier checkpoint, or fetch it again"
            )
        yield name, array
