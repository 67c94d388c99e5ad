"""The sources of text: plain files, pipes, compressed files, files of pairs; and what is refused at once."""

import gzip
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from lm.cli import main
from tests.tokenizer.texts import CORNER_CASES
from tests.tokenizer.words import words_of
from tokenizer import END_OF_TEXT, InputError, Tokenizer, textbook, train_bpe
from tokenizer.encode_corpus import encode_corpus
from tokenizer.encode_pairs import encode_pairs, offsets_path
from tokenizer.files import reading
from tokenizer.parallel import ranges
from tokenizer.train_bpe import train

TEXT = "It's día 12, the end of the theme. <|endoftext|>" * 300 + "".join(CORNER_CASES)
PAIRS = [(f"It's {i} the", f"the theme {i * i}<|endoftext|> é") for i in range(300)]


def jsonl(pairs: list[tuple[str, str]]) -> bytes:
    return "".join(json.dumps({"prefix": a, "target": b, "more": 1}) + "\n" for a, b in pairs).encode()


@contextmanager
def fed(path: str | int, data: bytes) -> Iterator[None]:
    """Write to a pipe in another thread."""

    def write() -> None:
        with open(path, "wb") as file:
            file.write(data)

    thread = Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        thread.join(20)


@contextmanager
def as_fifo(tmp_path: Path, data: bytes) -> Iterator[str]:
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    with fed(path, data):
        yield path


@contextmanager
def as_descriptor(tmp_path: Path, data: bytes) -> Iterator[str]:
    """Give what a shell makes of <(zcat x.gz)."""
    read, write = os.pipe()
    with fed(write, data):
        yield f"/dev/fd/{read}"
    os.close(read)


@contextmanager
def as_stdin(tmp_path: Path, data: bytes) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        yield "-"


@contextmanager
def as_gzip(tmp_path: Path, data: bytes) -> Iterator[str]:
    """Two members, and no .gz at the end of the name."""
    path = tmp_path / "compressed.txt"
    path.write_bytes(gzip.compress(data[:100]) + gzip.compress(data[100:]))
    yield str(path)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    vocab, merges = textbook.train(words_of(TEXT[:2000], [END_OF_TEXT]), 300, [END_OF_TEXT])
    return Tokenizer(vocab, merges, [END_OF_TEXT])


@pytest.mark.parametrize("how", [as_fifo, as_descriptor, as_stdin, as_gzip])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_what_is_no_plain_file_is_read(
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: Callable[[Path, bytes], AbstractContextManager[str]],
    num_workers: int,
) -> None:
    monkeypatch.setattr(ranges, "SMALL", 0)
    plain = tmp_path / "plain.txt"
    plain.write_bytes(TEXT.encode())
    with how(tmp_path, TEXT.encode()) as path:
        result = encode_corpus([path, plain], tokenizer, tmp_path / "ids.npy", num_workers=num_workers)
    assert np.load(tmp_path / "ids.npy").tolist() == 2 * tokenizer.encode(TEXT)
    assert result.num_bytes == 2 * len(TEXT.encode())
    (tmp_path / "fifo").unlink(missing_ok=True)
    with how(tmp_path, TEXT.encode()) as path:
        assert train_bpe(path, 300, [END_OF_TEXT], num_workers=num_workers) == train_bpe(
            plain, 300, [END_OF_TEXT]
        )
    assert not list(tmp_path.glob(".*"))


def test_an_error_names_what_was_given(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for how in (as_fifo, as_gzip):
        with (
            how(tmp_path, b"good \xff") as path,
            pytest.raises(InputError, match=rf"^{path} is not UTF-8 at byte 5"),
        ):
            encode_corpus(path, tokenizer, tmp_path / "ids.npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compressed.txt", "fifo"]


def test_nobody_writes_to_a_pipe(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reading, "WAIT", 0.1)
    os.mkfifo(tmp_path / "fifo")
    fifo, out = str(tmp_path / "fifo"), str(tmp_path / "out")
    assert main(["tokenizer", "train", "--input", fifo, "--vocab-size", "300", "--out", out]) == 2
    assert f"cannot read {fifo}: nothing came through it" in capsys.readouterr().err
    assert main(["tokenizer", "import", "--input", fifo, "--out", out]) == 2
    assert f"cannot read {fifo}: nothing came through it" in capsys.readouterr().err
    tokenizer.save(tmp_path)
    (tmp_path / "merges.txt").unlink()
    os.mkfifo(tmp_path / "merges.txt")
    with pytest.raises(InputError, match=r"merges.txt: nothing came"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("é text".encode("utf-16"), "is UTF-16, not UTF-8; convert it first, .* iconv -f UTF-16 "),
        (b"\xfe\xff" + "text".encode("utf-16-be"), "is UTF-16, not UTF-8"),
        ("a long text".encode("utf-16-le"), "is UTF-16LE, not"),
        ("a long text".encode("utf-16-be"), "is UTF-16BE, not"),
        ("text".encode("utf-32"), "is UTF-32, not"),
        ("día".encode("latin1") * 10, "is not UTF-8 at byte 1; .*iconv -f LATIN1"),
        (gzip.compress(b"text " * 1000, mtime=0)[:-9], "is a damaged .gz file"),
        (
            gzip.compress(gzip.compress(b"text", mtime=0), mtime=0),
            "is compressed; decompress it first with gunzip",
        ),
        (b"\x28\xb5\x2f\xfd....", "is compressed; decompress it first with unzstd"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (None, "Is a directory"),
    ],
)
def test_other_files_are_called_by_their_names(
    tokenizer: Tokenizer, tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "text.txt"
    path.mkdir() if content is None else path.write_bytes(content)
    for run in (
        lambda: train_bpe(path, 300),
        lambda: encode_corpus(path, tokenizer, tmp_path / "ids.npy"),
    ):
        with pytest.raises(InputError, match=rf"{path}:? {message}|cannot read {path}: {message}") as error:
            run()
        assert "\n" not in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["text.txt"]


def test_a_device_that_never_ends_is_refused() -> None:
    with pytest.raises(InputError, match="cannot read /dev/zero: it is a device"):
        train_bpe("/dev/zero", 300)


def test_a_byte_order_mark_of_a_text_is_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfit")
    encode_corpus(tmp_path / "a.txt", tokenizer, tmp_path / "ids.npy")
    assert tokenizer.decode(np.load(tmp_path / "ids.npy")) == "\ufeffit"


@pytest.mark.parametrize("num_workers", [1, 2])
def test_pairs_are_trained_on_as_they_are_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    """From .jsonl files, a glob of them, or compressed ones: the merges of the texts, not of their JSON."""
    monkeypatch.setattr(ranges, "SMALL", 0)
    (tmp_path / "0.jsonl").write_bytes(jsonl(PAIRS[:100]))
    (tmp_path / "1.jsonl").write_bytes(jsonl(PAIRS[100:])[:-1])  # without a line end
    (tmp_path / "all.jsonl.gz").write_bytes(gzip.compress(jsonl(PAIRS)))
    texts = [text for pair in PAIRS for text in pair]
    expected = textbook.train(words_of(END_OF_TEXT.join(texts), [END_OF_TEXT]), 320, [END_OF_TEXT])
    tokenizer = Tokenizer(*expected, [END_OF_TEXT])
    for number, source in enumerate((tmp_path / "*.jsonl", tmp_path / "all.jsonl.gz")):
        result = train(source, 320, [END_OF_TEXT], num_workers=num_workers)
        assert (result.vocab, result.merges) == expected
        assert result.num_bytes == sum(len(text.encode()) for text in texts)
        assert result.num_tokens == sum(len(tokenizer.encode(text)) for text in texts)
        out = tmp_path / f"{number}.npy"
        encode_pairs(source, tokenizer, out, END_OF_TEXT)
        ids = np.split(np.load(out), np.load(offsets_path(out))[1:-1])
        assert [tokenizer.decode(i).removeprefix(END_OF_TEXT * (k % 2)) for k, i in enumerate(ids)] == [
            text + END_OF_TEXT * (k % 2) for k, text in enumerate(texts)
        ]


def test_pairs_and_texts_are_not_mixed(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(PAIRS[:2]))
    (tmp_path / "b.txt").write_text("text")
    tokenizer.save(tmp_path / "t")
    out, glob = ("--out", str(tmp_path / "out")), str(tmp_path / "*.*")
    encode = ("tokenizer", "encode", "--tokenizer", str(tmp_path / "t"), *out)
    for command in (("tokenizer", "train", "--vocab-size", "300", *out), encode):
        assert main([*command, "--input", glob]) == 2
        assert "a.jsonl holds pairs (.jsonl)" in capsys.readouterr().err
    assert main([*encode, "--input", str(tmp_path / "*.jsonl"), "--engine", "dask"]) == 2
    assert "--engine dask encodes texts, not pairs" in capsys.readouterr().err
    with pytest.raises(InputError, match="holds pairs"):
        encode_corpus(tmp_path / "a.jsonl", tokenizer, tmp_path / "ids.npy")


def test_a_line_that_is_no_pair_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "SMALL", 0)
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(PAIRS) + b'{"prefix": 3}\n' + jsonl(PAIRS))
    for num_workers in (1, 2):
        with pytest.raises(InputError, match=r"a\.jsonl, line 301: not a pair"):
            train_bpe(path, 300, num_workers=num_workers)
