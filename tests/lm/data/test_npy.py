"""Headers of .npy files: what is damaged, hostile or foreign gets an answer in one line, or holds what it held."""

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


def saved(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    """An array as NumPy writes it."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version, allow_pickle=True)
    return file.getvalue()


def with_header(header: bytes, body: bytes = IDS.tobytes(), version: bytes = b"\1\0") -> bytes:
    size = len(header).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + size + header + body


def header(descr: str = "'<u2'", order: str = "False", shape: str = "(40,)", more: str = "") -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, {more}}}\n".encode()


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<i4", ">u4", "<i8", "<u8"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.filterwarnings("ignore:Stored array in format")
def test_every_type_and_version_is_mapped(tmp_path: Path, dtype: str, version: tuple[int, int]) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(saved(IDS.astype(dtype), version))
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
    path.write_bytes(with_header(text.encode()))
    np.testing.assert_array_equal(map_npy(path), IDS)


HOSTILE = {
    "deep": with_header(header(shape="(" * 5000 + "40" + ")" * 5000)),
    "deep list": with_header(b"[" * 60_000),
    "6,000 digits": with_header(header(shape="(" + "9" * 6000 + ",)")),
    "31 digits": with_header(header(shape="(" + "9" * 31 + ",)")),
    "18 digits": with_header(header(shape="(" + "9" * 18 + ",)")),
    "negative": with_header(header(shape="(-40,)")),
    "number": with_header(header(shape="40")),
    "no dimension": with_header(header(shape="()")),
    "two dimensions": with_header(header(shape="(4, 10)")),
    "text as length": with_header(header(shape="('a',)")),
    "object": with_header(header("'|O'")),
    "pickle": saved(np.array([{}] * 40)),
    "float": saved(IDS.astype("f4")),
    "fields": with_header(header("[('a', '<u2')]")),
    "unknown type": with_header(header("'<u3'")),
    "call": with_header(header("__import__('os').abort()")),
    "twice": with_header(header(more="'shape': (40,)")),
    "extra key": with_header(header(more="'a': 1")),
    "missing key": with_header(b"{'descr': '<u2', 'shape': (40,), }"),
    "zero byte": with_header(header().replace(b"<", b"\0")),
    "not ASCII": with_header(header("'\u0661'")),
    "no header": b"\x93NUMPY\1\0",
    "no version": b"\x93NUMPY",
    "version 9": with_header(header(), version=b"\x09\0"),
    "long header": b"\x93NUMPY\2\0\xff\xff\xff\xff" + header() + IDS.tobytes(),
    "a byte too many": saved(IDS) + b"\0",
    "a megabyte too many": saved(IDS) + bytes(1 << 20),
    "a byte too few": saved(IDS)[:-1],
    "no body": saved(IDS)[: -IDS.nbytes],
    "zip": b"PK\3\4" + bytes(50),
    "empty array": saved(IDS[:0]),
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


def flipped(path: Path) -> Iterator[None]:
    """Flip each bit of a .npy file in turn, but for most of the padding and of the body."""
    data = path.read_bytes()
    text, body = data.index(b"}") + 3, data.index(b"\n") - 1
    for byte in (*range(text), *range(body, body + 20)):
        for bit in range(8):
            changed = bytearray(data)
            changed[byte] ^= 1 << bit
            path.write_bytes(changed)
            yield


def test_one_bit_of_a_token_file_changes_an_id_at_most_or_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(saved(IDS))
    messages = []
    for _ in flipped(path):
        try:
            tokens = open_tokens(path, 256, 8)
        except InputError as error:
            messages.append(str(error))
        else:
            assert tokens.shape == (40,)
            # A type of the same size gives other numbers; all else in the header is as it was.
            assert (tokens != IDS).sum() <= 1 or tokens.dtype != IDS.dtype
    assert len(messages) > 300
    assert all(str(path) in message and "\n" not in message for message in messages)


def test_one_bit_of_the_bounds_moves_a_bound_or_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.npy"
    encode_pairs(write(tmp_path / "pairs.jsonl", PAIRS), TOKENIZER, path, END)
    right, messages = open_pairs(path, MODEL).offsets.copy(), []
    for _ in flipped(offsets_path(path)):
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
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("pipe"):
        os.mkfifo(path)
    elif name.startswith("folder"):
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(20)  # the reader of a pipe waits for its writer
    try:
        with pytest.raises(InputError, match=rf"{name}: is a .*, and must be a file"):
            open_tokens(path, 40, 8)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
