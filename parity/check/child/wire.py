"""Messages between `lm check` and its child: a JSON header, then the raw bytes of arrays. No pickle."""

from __future__ import annotations

import json
import math
from typing import Any, BinaryIO

import numpy as np

Message = tuple[dict[str, Any], dict[str, np.ndarray]]


def write(stream: BinaryIO, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write one message and flush."""
    arrays = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in arrays.items()}
    described = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    text = json.dumps([header, described]).encode()
    stream.write(len(text).to_bytes(8, "little") + text)
    for array in arrays.values():
        stream.write(array.tobytes())
    stream.flush()


def read(stream: BinaryIO) -> Message | None:
    """Return the next message, or None after the last."""
    length = stream.read(8)
    if len(length) < 8:
        return None
    header, described = json.loads(stream.read(int.from_bytes(length, "little")))
    arrays = {}
    for name, dtype, shape in described:
        size = np.dtype(dtype).itemsize * math.prod(shape)
        arrays[name] = np.frombuffer(bytearray(stream.read(size)), dtype).reshape(shape)
    return header, arrays
