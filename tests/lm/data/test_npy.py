"""Headers of .npy files: damaged and hostile ones are refused in one line; other writers' headers are read."""

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lm.data.npy import map_npy
from lm.data.pairs import open_pairs
from lm.data.token_files import open_tokens
from tests.lm.data.test_pairs import END, MODEL, PAIRS, TOKENIZER, write
from tokenizer import InputError
from tokenizer.encode_pairs import encode_pairs, offsets_path

IDS = np.arange(40, dtype=np.uint16)


def to_npy(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    """Return the bytes that NumPy writes for an array."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version, allow_pickle=True)
    return file.getvalue()


def npy_bytes(header: bytes, body: bytes = IDS.tobytes(), version: bytes = b"\1\0") -> bytes:
    size = len(header).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + size + header + body


def make_header(descr: str = "'<u2'", order: str = "False", shape: str = "(40,)", more: str = "") -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, {more}}}\n".encode()


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<i4", ">u4", "<i8", "<u8"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.filterwarnings("ignore:Stored array in format")
def test_every_type_and_version_is_mapped(tmp_path: Path, dtype: str, version: tuple[int, int]) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(to_npy(IDS.astype(dtype), version))
    tokens = map_npy(path)
    assert isinstance(tokens, np.memmap)
    assert tokens.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(tokens, IDS)
    np.testing.assert_array_equal(open_tokens(path, 40, 39), IDS)


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<u2', 'fortran_order': False, 'shape': (40,), }\n",
        "{'shape': (40,),'descr':'<u2','fortran_order':False}",
        '{"descr": "<u2", "fortran_order": False, "shape": (40,)}   \n',
        "{'descr': '<u2', 'fortran_order': True, 'shape': (40,), }",
    ],
)
def test_headers_of_other_writers_are_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(npy_bytes(text.encode()))
    np.testing.assert_array_equal(map_npy(path), IDS)


HOSTILE = {
    "deep": npy_bytes(make_header(shape="(" * 5000 + "40" + ")" * 5000)),
    "deep list": npy_bytes(b"[" * 60_000),
    "6,000 digits": npy_bytes(make_header(shape="(" + "9" * 6000 + ",)")),
    "31 digits": npy_bytes(make_header(shape="(" + "9" * 31 + ",)")),
    "18 digits": npy_bytes(make_header(shape="(" + "9" * 18 + ",)")),
    "negative": npy_bytes(make_header(shape="(-40,)")),
    "number": npy_bytes(make_header(shape="40")),
    "no dimension": npy_bytes(make_header(shape="()")),
    "two dimensions": npy_bytes(make_header(shape="(4, 10)")),
    "text as length": npy_bytes(make_header(shape="('a',)")),
    "object": npy_bytes(make_header("'|O'")),
    "pickle": to_npy(np.array([{}] * 40)),
    "float": to_npy(IDS.astype("f4")),
    "fields": npy_bytes(make_header("[('a', '<u2')]")),
    "unknown type": npy_bytes(make_header("'<u3'")),
    "call": npy_bytes(make_header("__import__('os').abort()")),
    "twice": npy_bytes(make_header(more="'shape': (40,)")),
    "extra key": npy_bytes(make_header(more="'a': 1")),
    "missing key": npy_bytes(b"{'descr': '<u2', 'shape': (40,), }"),
    "zero byte": npy_bytes(make_header().replace(b"<", b"\0")),
    "not ASCII": npy_bytes(make_header("'\u0661'")),
    "no header": b"\x93NUMPY\1\0",
    "no version": b"\x93NUMPY",
    "version 9": npy_bytes(make_header(), version=b"\x09\0"),
    "long header": b"\x93NUMPY\2\0\xff\xff\xff\xff" + make_header() + IDS.tobytes(),
    "a byte too many": to_npy(IDS) + b"\0",
    "a megabyte too many": to_npy(IDS) + bytes(1 << 20),
    "a byte too few": to_npy(IDS)[:-1],
    "no body": to_npy(IDS)[: -IDS.nbytes],
    "zip": b"PK\3\4" + bytes(50),
    "empty array": to_npy(IDS[:0]),
    "gzip": b"\x1f\x8b\x08" + bytes(50),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(tmp_path: Path, what: str) -> None:
    encode_pairs(write(tmp_path / "pairs.jsonl", PAIRS), TOKENIZER, tmp_path / "pairs.npy", END)
    (tmp_path / "x.npy").write_bytes(HOSTILE[what])
    offsets_path(tmp_path / "pairs.npy").write_bytes(HOSTILE[what])
    with pytest.raises(InputError, match=r"^[^\n]*x\.npy: [^\n]{10,400}$"):
        open_tokens(tmp_path / "x.npy", 40, 8)
    with pytest.raises(InputError, match=r"^[^\n]*pairs\.npy\.offsets: [^\n]{10,400}$"):
        open_pairs(tmp_path / "pairs.npy", MODEL)


def flip_bits(path: Path) -> Iterator[None]:
    """Flip each bit of a .npy file in turn, except in most of the padding and of the body."""
    data = path.read_bytes()
    text, body = data.index(b"}") + 3, data.index(b"\n") - 1
    for byte in (*range(text), *range(body, body + 20)):
        for bit in range(8):
            changed = bytearray(data)
            changed[byte] ^= 1 << bit
            path.write_bytes(changed)
            yield


def test_a_flipped_bit_of_a_token_file_changes_at_most_one_id_or_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(to_npy(IDS))
    messages = []
    for _ in flip_bits(path):
        try:
            tokens = open_tokens(path, 256, 8)
        except InputError as error:
            messages.append(str(error))
        else:
            assert tokens.shape == (40,)
            # Another type of equal size gives other ids. No other change of the header is accepted.
            assert (tokens != IDS).sum() <= 1 or tokens.dtype != IDS.dtype
    assert len(messages) > 300
    assert all(str(path) in message and "\n" not in message for message in messages)


def test_a_flipped_bit_of_the_bounds_changes_at_most_one_bound_or_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.npy"
    encode_pairs(write(tmp_path / "pairs.jsonl", PAIRS), TOKENIZER, path, END)
    right, messages = open_pairs(path, MODEL).offsets.copy(), []
    for _ in flip_bits(offsets_path(path)):
        try:
            pairs = open_pairs(path, MODEL)
        except InputError as error:
            messages.append(str(error))
        else:
            assert (pairs.offsets != right).sum() <= 1
            assert all(
                len(prefix) > 0 and len(target) > 1 for prefix, target in map(pairs.__getitem__, (0, 1))
            )
    assert len(messages) > 300
    assert all(str(path) in message and "\n" not in message for message in messages)


@pytest.mark.parametrize("name", ["pipe.npy", "pipe.bin", "folder.npy", "zero.npy"])
def test_pipes_folders_and_devices_are_refused_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("pipe"):
        os.mkfifo(path)
    elif name.startswith("folder"):
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(20)  # reading a pipe would wait for its writer
    try:
        with pytest.raises(InputError, match=rf"{name}: is a .*, but must be a file"):
            open_tokens(path, 40, 8)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
