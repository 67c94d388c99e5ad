"""Arrays of whole numbers in .npy files, mapped into memory.

The header of a .npy file is a Python literal. A regular expression reads it, so no header can crash the reader or
exhaust its memory.
"""

import re
from pathlib import Path

import numpy as np

MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {1: 2, 2: 4, 3: 4}
"""Number of bytes that hold the header's length, for each version of the format."""
_LONGEST = 1 << 16
_ITEM = rb"""\s*["'](descr|fortran_order|shape)["']\s*:\s*(["'][^"']*["']|True|False|\([\d,\s]*\))\s*"""
_DTYPE = re.compile(rb"""["']([<>|=]?[iu][1248])["']""")
# A number with more digits cannot be the length of a file.
_SHAPE = re.compile(rb"\(\s*(\d{1,18})\s*,\s*\)")


def map_npy(path: Path) -> np.ndarray:
    """Map a .npy file of one dimension into memory.

    Raises:
        ValueError: it is not such a file, or its length is not what its header says. The message lacks the path.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        magic, version = file.read(6), file.read(2)
        if magic != MAGIC or len(version) < 2 or version[0] not in _LENGTH_BYTES or version[1] != 0:
            raise ValueError("it does not begin as one")
        length = int.from_bytes(file.read(_LENGTH_BYTES[version[0]]), "little")
        header = file.read(min(length, _LONGEST + 1))
        start, size = file.tell(), file.seek(0, 2)
    if len(header) < length or length > _LONGEST:
        raise ValueError(f"its header has {len(header)} bytes, and says {length}")
    dtype, count = _dtype_and_count(header)
    if start + count * dtype.itemsize != size:
        raise ValueError(f"it has {size} bytes, and its header says {start + count * dtype.itemsize}")
    return np.memmap(path, dtype, "r", start, (count,))


def _dtype_and_count(header: bytes) -> tuple[np.dtype, int]:
    if not re.fullmatch(rb"\s*\{%b(,%b){2},?\s*\}\s*" % (_ITEM, _ITEM), header):
        raise ValueError("its header is damaged")
    items = dict(re.findall(_ITEM, header))
    # In one dimension, both orders are the same.
    if len(items) < 3 or items[b"fortran_order"] not in (b"True", b"False"):
        raise ValueError("its header is damaged")
    dtype, shape = _DTYPE.fullmatch(items[b"descr"]), _SHAPE.fullmatch(items[b"shape"])
    if not dtype or not shape:
        odd = items[b"shape" if dtype else b"descr"].decode(errors="replace")
        raise ValueError(f"it holds {odd[:40]}, and must hold whole numbers in one dimension")
    return np.dtype(dtype[1].decode()), int(shape[1])
