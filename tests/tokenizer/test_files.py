"""Files of tokenizers that anybody may have written or damaged: read as meant, or refused in one line."""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer.texts import TEXTS
from tokenizer import InputError, Tokenizer, textbook
from tokenizer.files import publish
from tokenizer.files.strict_json import parse_json


@pytest.fixture(autouse=True)
def _no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of folders are written here, which need not outlast a power failure."""
    monkeypatch.setattr(publish, "fsync", lambda path: None)


MERGES = [(b"h", b"e"), (b"l", b"l"), (b"he", b"ll")]


def small() -> Tokenizer:
    vocab = {i: bytes([i]) for i in range(256)} | {256: b"he", 257: b"ll", 258: b"hell"}
    return Tokenizer(vocab, MERGES, ["<|endoftext|>", "<|pad|>"], visible_tokens=["<|pad|>"])


HOSTILE = [
    *(
        "null",
        "true",
        "1.5",
        "-1",
        "8589934592",
        "NaN",
        "-Infinity",
        "1e999",
        '""',
        '"x"',
        r'"\ud800"',
        "[]",
        "{}",
    ),
    *("9" * 6000, "[" * 5000, '{"a":' * 5000, '{"a": 1, "a": 2}', "300", "[[]]", '{"type": null}'),
]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every part of a JSON value but most of the 256 bytes."""
    yield path
    items = list(
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, part in items if len(items) < 100 else [*items[:2], *items[-4:]]:
        yield from leaves(part, (*path, key))


def with_part(value: Any, path: tuple[Any, ...], part: Any) -> Any:
    """Return a copy of a JSON value in which one part is another."""
    if not path:
        return part
    copy = value.copy()
    copy[path[0]] = with_part(copy[path[0]], path[1:], part)
    return copy


@pytest.mark.parametrize("name", ["vocab.json", "pretokenizer.json", "tokenizer.json"])
def test_hostile_values_are_read_or_refused_in_one_line(tmp_path: Path, name: str) -> None:
    """Each part of each file replaced by values that break readers: what is read can be saved and read again."""
    tokenizer = small()
    tokenizer.save(tmp_path)
    tokenizer.save_tokenizers_json(tmp_path / "tokenizer.json")
    file = tmp_path / name
    good, messages = json.loads(file.read_bytes()), []
    # Of the largest file every other case: half of the values at one part, the others at the next.
    step = 2 if name == "tokenizer.json" else 1
    for path, hostile in itertools.islice(itertools.product(leaves(good), HOSTILE), 0, None, step):
        file.write_text(json.dumps(with_part(good, path, "MARK")).replace('"MARK"', hostile))
        try:
            read = (
                Tokenizer.from_tokenizers_json(file) if name == "tokenizer.json" else Tokenizer.load(tmp_path)
            )
        except InputError as error:
            messages.append(str(error))
        else:
            read.save(tmp_path / "copy")
            copy = Tokenizer.load(tmp_path / "copy")
            assert (copy.sha256, copy.vocab) == (read.sha256, read.vocab)
    assert len(messages) > 100
    for message in messages:
        assert str(tmp_path) in message
        assert "\n" not in message
        assert len(message) < 400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[NaN]", "NaN is not a number"),
        ("9" * 6000, "6000 digits"),
        ("[" * 100_000, "nested too deeply"),
        (r'["\ud800"]', "lone surrogate"),
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ("1e999", "too large"),
        ("{", "is not JSON"),
    ],
)
def test_json_that_is_none(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_json(text, "a.json")


@settings(max_examples=50)
@given(value=st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**63) | TEXTS, st.lists))
def test_json_is_read(value: Any) -> None:
    assert parse_json(json.dumps({"a": value}), "a.json") == {"a": value}
    assert parse_json(json.dumps([value], ensure_ascii=False), "a.json") == [value]


@settings(max_examples=40)
@given(
    ids=st.permutations(range(600)),
    merges=st.lists(
        st.sampled_from([*MERGES, (b"hell", b"o"), (b"a", b"b"), (b"a", b"h")]), unique=True, max_size=6
    ),
    specials=st.lists(st.sampled_from(["<|a|>", "a", "h", "he", "é", "\x00", "\x85", " "]), unique=True),
    text=st.text("ahelo <|>é\x00"),
)
def test_saved_and_loaded_is_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    ids: list[int],
    merges: list[tuple[bytes, bytes]],
    specials: list[str],
    text: str,
) -> None:
    """Whatever the ids: with holes, several with the same bytes, special tokens among the bytes or after them."""
    tokens = [bytes([byte]) for byte in range(256)] + [part for pair in merges for part in pair]
    tokens += [left + right for left, right in merges] + [special.encode() for special in specials[::2]]
    tokenizer = Tokenizer(dict(zip(ids, tokens, strict=False)), merges, specials)
    folder = tmp_path_factory.getbasetemp() / "saved"
    tokenizer.save(folder)
    loaded = Tokenizer.load(folder)
    assert loaded.vocab == tokenizer.vocab
    assert loaded.vocab_size == tokenizer.vocab_size
    assert loaded.special_tokens == tokenizer.special_tokens
    assert loaded.sha256 == tokenizer.sha256
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.decode(tokenizer.encode(text)) == text
    assert tokenizer.ids_with_text.tolist() == sorted(tokenizer.vocab)
    for i in range(0, tokenizer.vocab_size, 11):
        for copy in (tokenizer, loaded):
            if i in tokenizer.vocab:
                assert copy.decode_bytes([i]) == tokenizer.vocab[i]
            else:
                with pytest.raises(InputError, match=f"token id {i} is not"):
                    copy.decode([i])


@pytest.mark.parametrize("i", [None, 1.5, "1", -1, 1 << 33])
def test_ids_are_checked(i: Any) -> None:
    with pytest.raises(InputError, match="has the id"):
        Tokenizer(small().vocab | {i: b"new"}, MERGES)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "pretokenizer.json"])
def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path, name: str) -> None:
    small().save(tmp_path)
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert Tokenizer.load(tmp_path).sha256 == small().sha256


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_utf16_is_called_by_its_name(tmp_path: Path, name: str, encoding: str) -> None:
    small().save(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_text().encode(encoding))
    with pytest.raises(InputError, match=rf"{name} is UTF-(16|32)(LE|BE)?, not UTF-8.*iconv -f UTF-(16|32)"):
        Tokenizer.load(tmp_path)


def train_small() -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    return textbook.train(textbook.pretokenize("the end of the theme, then 'tis his thesis; " * 3), 300)


def drop_lines(path: Path, start: int, stop: int) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:start] + lines[stop:]))


def exchange_lines(path: Path, one: int, other: int) -> None:
    lines = path.read_text().splitlines(keepends=True)
    lines[one], lines[other] = lines[other], lines[one]
    path.write_text("".join(lines))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no merges": (lambda folder: (folder / "merges.txt").write_text(""), "which no line of merges.txt makes"),
    "a merge less": (
        lambda folder: drop_lines(folder / "merges.txt", 2, 3),
        "which no line of merges.txt makes",
    ),
    "exchanged merges": (lambda folder: exchange_lines(folder / "merges.txt", 1, 2), "lines were exchanged"),
    "far merges": (lambda folder: exchange_lines(folder / "merges.txt", 2, 12), "lines were exchanged"),
    "an entry less": (
        lambda folder: (folder / "vocab.json").write_text(
            re.sub('"the": [0-9]+, ', "", (folder / "vocab.json").read_text())
        ),
        "lacks one of them",
    ),
    "another entry": (
        lambda folder: (folder / "vocab.json").write_text(
            (folder / "vocab.json").read_text().replace('"the"', '"thx"')
        ),
        "lacks one of them",
    ),
}


@pytest.mark.parametrize("has_hash", [True, False])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_noticed(tmp_path: Path, damage: str, has_hash: bool) -> None:
    """In a folder of ours, with its hash or without, and in GPT-2's files."""
    Tokenizer(*train_small()).save(tmp_path)
    change, message = DAMAGE[damage]
    pretokenizer = tmp_path / "pretokenizer.json"
    if not has_hash:
        pretokenizer.write_text('{"special_tokens": [], "pattern": "gpt2"}')
    assert Tokenizer.load(tmp_path).vocab_size == len(Tokenizer.load(tmp_path).vocab)
    change(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        Tokenizer.load(tmp_path)
    assert str(tmp_path) in str(error.value)
    with pytest.raises(InputError, match=message):
        Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")


def test_a_hash_shows_what_nothing_else_does(tmp_path: Path) -> None:
    small().save(tmp_path)
    pretokenizer = tmp_path / "pretokenizer.json"
    pretokenizer.write_text(pretokenizer.read_text().replace("gpt2", "cl100k"))
    with pytest.raises(InputError, match="was changed since it was saved"):
        Tokenizer.load(tmp_path)


def test_other_orders_of_ids_are_no_damage(tmp_path: Path) -> None:
    """RoBERTa numbers tokens by how often they occur, and keeps special tokens among them."""
    vocab, merges = train_small()
    special = {0: b"<s>", 1: b"</s>", 302: b"<mask>"}
    vocab = {302 - (7 * i + 1) % 301 - 1: token for i, token in vocab.items()} | special
    vocab |= {
        303 + i: token for i, token in enumerate({bytes([b]) for b in range(256)} - set(vocab.values()))
    }
    tokens = {token for pair in merges for token in (*pair, pair[0] + pair[1])} - set(vocab.values())
    vocab |= {600 + i: token for i, token in enumerate(sorted(tokens))}
    Tokenizer(vocab, merges).save(tmp_path)
    read = Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")
    assert read.encode("the theme") == Tokenizer(vocab, merges).encode("the theme")
