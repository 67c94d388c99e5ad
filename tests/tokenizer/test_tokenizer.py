"""Encoding equals the textbook's, tiktoken and tokenizers; decoding gives the text back."""

import copy
import itertools
import json
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer.texts import CORNER_CASES, SPECIAL_SETS, SPECIALS, TEXTS, texts_with_specials
from tests.tokenizer.words import words_of
from tokenizer import (
    InputError,
    Tokenizer,
    batches,
    short_texts,
    streams,
    textbook,
    token_table,
    train_bpe,
)
from tokenizer import tokenizer as tokenizer_module
from tokenizer.batches import SEPARATOR
from tokenizer.inspect import coloured, tokens_of
from tokenizer.merges import apply, token_array
from tokenizer.normalizer import Normalization
from tokenizer.pretokenize import PATTERNS

TRAINING_TEXT = (
    "".join(CORNER_CASES) * 2 + "the end of the theme, then 'tis his thesis; 走走走 día días " * 20
)


def trained(tmp_path: Path, specials: list[str], pattern: str = "gpt2") -> Tokenizer:
    path = tmp_path / "training.txt"
    path.write_bytes(TRAINING_TEXT.encode())
    vocab, merges = train_bpe(path, 420 + len(specials), specials, pattern=pattern)
    return Tokenizer(vocab, merges, specials, pattern)


@pytest.fixture(scope="module")
def by_specials(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Tokenizer]:
    """Return a tokenizer for each set of special tokens."""
    return {tuple(specials): trained(tmp_path_factory.mktemp("t"), specials) for specials in SPECIAL_SETS}


def as_tiktoken(tokenizer: Tokenizer, pattern: str = "gpt2") -> tiktoken.Encoding:
    special_ids = set(tokenizer.special_tokens.values())
    ranks = {token: i for i, token in tokenizer.vocab.items() if i not in special_ids}
    return tiktoken.Encoding(
        "test", pat_str=PATTERNS[pattern], mergeable_ranks=ranks, special_tokens=tokenizer.special_tokens
    )


def as_tokenizers(tokenizer: Tokenizer, path: Path) -> tokenizers.Tokenizer:
    tokenizer.save_tokenizers_json(path)
    return tokenizers.Tokenizer.from_file(str(path))


def by_blocks(tokenizer: Tokenizer, text: str, block_size: int) -> list[int]:
    from io import BytesIO

    stream = tokenizer.stream_encoder.encode(BytesIO(text.encode()).read, block_size)
    return [i for ids, _ in stream for i in ids.tolist()]


@given(text_specials=texts_with_specials(), block_size=st.sampled_from([1, 10, 1 << 18]))
def test_equals_textbook(
    by_specials: dict[tuple[str, ...], Tokenizer], text_specials: tuple[str, list[str]], block_size: int
) -> None:
    text, specials = text_specials
    tokenizer = by_specials[tuple(specials)]
    ids = textbook.encode(words_of(text, specials), tokenizer.vocab, tokenizer.merges)
    assert tokenizer.encode(text) == ids
    assert by_blocks(tokenizer, text, block_size) == ids
    assert list(tokenizer.encode_iterable(text)) == ids
    assert tokenizer.decode(ids) == text


@given(text_specials=texts_with_specials())
def test_equals_tiktoken_and_tokenizers(
    by_specials: dict[tuple[str, ...], Tokenizer],
    tmp_path_factory: pytest.TempPathFactory,
    text_specials: tuple[str, list[str]],
) -> None:
    text, specials = text_specials
    tokenizer = by_specials[tuple(specials)]
    ids = tokenizer.encode(text)
    # If one special token is a prefix of another, tiktoken takes them in an order of its own.
    if not any(a != b and b.startswith(a) for a, b in itertools.product(specials, repeat=2)):
        assert ids == as_tiktoken(tokenizer).encode(text, allowed_special="all")
    path = tmp_path_factory.getbasetemp() / "tokenizer.json"
    if "é" in specials:
        with pytest.raises(InputError, match="special token 'é' is spelled like token"):
            tokenizer.save_tokenizers_json(path)
        return
    assert ids == as_tokenizers(tokenizer, path).encode(text).ids


@given(text=TEXTS, repeat=st.integers(1, 16))
def test_long_pieces(by_specials: dict[tuple[str, ...], Tokenizer], text: str, repeat: int) -> None:
    """Pieces long and short take different ways through the merges."""
    tokenizer = by_specials[()]
    ids = textbook.encode(textbook.pretokenize(text * repeat), tokenizer.vocab, tokenizer.merges)
    for long, few in ((0, 0), (0, 1000), (4, 3), (1000, 24)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(apply, "LONG", long)
            patch.setattr(short_texts, "LONG", long)
            patch.setattr(token_array, "FEW", few)
            fresh = Tokenizer(tokenizer.vocab, tokenizer.merges)
            assert by_blocks(fresh, text * repeat, 64) == ids
            assert fresh.encode(text * repeat) == ids


@given(
    merges=st.lists(
        st.tuples(*[st.sampled_from([b"a", b"b", b"aa", b"ab", b"ba", b"aab"])] * 2), max_size=12
    ),
    text=st.text("ab", max_size=60),
)
def test_merges_in_any_order(merges: list[tuple[bytes, bytes]], text: str) -> None:
    """Merges that no training would give: ranks out of order, several ways to one token."""
    tokens = {left + right for left, right in merges} | {token for pair in merges for token in pair}
    tokens |= {bytes([byte]) for byte in range(256)}
    vocab = dict(enumerate(sorted(tokens)))
    once = list(dict.fromkeys(merges))  # a merge that is listed again changes nothing
    ids = textbook.encode(textbook.pretokenize(text), vocab, once)
    tokenizer = Tokenizer(vocab, merges)
    assert tokenizer.encode(text) == ids
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apply, "LONG", 0)
        assert by_blocks(tokenizer, text, 64) == ids


@given(texts=st.lists(TEXTS, max_size=8))
def test_iterable_equals_whole(by_specials: dict[tuple[str, ...], Tokenizer], texts: list[str]) -> None:
    tokenizer = by_specials["<|", "<|end|>", "|>", "ab"]
    assert list(tokenizer.encode_iterable(texts)) == tokenizer.encode("".join(texts))


@given(data=st.data())
@pytest.mark.parametrize("pattern", [*PATTERNS, r"\w+"])
def test_a_batch_equals_its_texts(
    by_specials: dict[tuple[str, ...], Tokenizer], pattern: str, data: st.DataObject
) -> None:
    """Whether the texts are joined or not, and if one of them holds the separator."""
    specials = data.draw(SPECIALS.map(list))
    changes = None
    if data.draw(st.booleans()):
        specials = ["<|endoftext|>", "<|sep|>"]
        changes = Normalization(nfc=True, rstrip=("<|sep|>",))
    elif data.draw(st.booleans()):
        specials += ["<|x" + SEPARATOR]
    parts = st.one_of(TEXTS, st.sampled_from([*specials, *(s[1:] for s in specials), ""]))
    texts = data.draw(st.lists(st.lists(parts, max_size=3).map("".join), max_size=8))
    if data.draw(st.booleans()):
        texts.insert(0, "before" + SEPARATOR)
    source = by_specials[()]
    tokenizer = Tokenizer(source.vocab, source.merges, specials, pattern, normalization=changes)
    expected = [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch(texts) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "SHORT", 0)
        assert tokenizer.encode_batch(iter(texts)) == expected


def test_a_batch_names_the_text_that_is_wrong(by_specials: dict[tuple[str, ...], Tokenizer]) -> None:
    for length in (1, 10_000):
        texts = ["", "a" * length, "b\ud800", "\udfff"]
        with pytest.raises(InputError, match=r"text 2: text has a lone surrogate '\\ud800' at character 1"):
            by_specials[()].encode_batch(texts)


def test_iterable_is_lazy(by_specials: dict[tuple[str, ...], Tokenizer]) -> None:
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "Once upon a time.\n"

    ids = by_specials["<|endoftext|>",].encode_iterable(texts())
    next(ids)
    assert read <= 5


@pytest.mark.parametrize("whole", [True, False])
def test_iterable_takes_no_memory(by_specials: dict[tuple[str, ...], Tokenizer], whole: bool) -> None:
    """Ids of any number of texts, or of one long text, in constant memory."""
    tokenizer = Tokenizer(by_specials[()].vocab, by_specials[()].merges)
    line = "Once upon a time there was a día, and then another; it's the end. \n"
    for _ in tokenizer.encode_iterable([line] * 5000):
        pass  # fill the caches
    texts: Iterator[str] = iter([line * 20_000]) if whole else itertools.repeat(line, 20_000)
    tracemalloc.start()
    num_ids = sum(1 for _ in tokenizer.encode_iterable(texts))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_ids > 500_000
    assert peak < 2_000_000


def test_caches_are_bounded(
    by_specials: dict[tuple[str, ...], Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_PIECES", 500)
    monkeypatch.setattr(short_texts, "MAX_CACHED_PIECES", 500)
    monkeypatch.setattr(short_texts, "FEW_PIECES", 100)
    tokenizer = Tokenizer(by_specials[()].vocab, by_specials[()].merges)
    text = " ".join(map(str, range(5000)))
    ids = textbook.encode(textbook.pretokenize(text), tokenizer.vocab, tokenizer.merges)
    assert by_blocks(tokenizer, text, 1000) == ids
    assert tokenizer.stream_encoder._index.size < 2000
    lines = [" ".join(map(str, range(start, start + 20))) for start in range(0, 5000, 20)]
    assert [tokenizer.encode(line) for line in lines] == [by_blocks(tokenizer, line, 1000) for line in lines]
    short = tokenizer._short_encoder
    assert 200 < len(short._tokens) < len(short._pieces) <= 500 + len(short._tokens)


@pytest.mark.parametrize("specials", [[], ["<|", "<|end|>", "|>", "ab"], [" ", "\n\n", "é", "中文"]])
@pytest.mark.parametrize("whole_pieces", [False, True])
@settings(max_examples=5)
@given(texts=st.lists(TEXTS, min_size=20, max_size=40))
def test_a_table_of_tokens_changes_no_id(
    by_specials: dict[tuple[str, ...], Tokenizer], specials: list[str], texts: list[str], whole_pieces: bool
) -> None:
    source = by_specials[tuple(specials)]
    fresh, filled = (
        Tokenizer(source.vocab, source.merges, specials, whole_pieces=whole_pieces) for _ in range(2)
    )
    expected = [fresh.encode(text) for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(short_texts, "FEW_PIECES", 0)
        filled.encode("x")
        assert len(filled._short_encoder._tokens) > 200
        assert [filled.encode(text) for text in texts] == expected


@pytest.mark.parametrize("few", [0, 1 << 20])
def test_a_token_that_merging_does_not_give_stays_out_of_the_table(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merging the bytes of "abc" makes "a" and "bc", so no merge makes the token "abc"."""
    monkeypatch.setattr(short_texts, "FEW_PIECES", few)
    vocab = {i: bytes([i]) for i in range(256)} | {256: b"bc", 257: b"ab", 258: b"abc", 259: b" abc"}
    merges = [(b"b", b"c"), (b"a", b"b"), (b"ab", b"c"), (b" ", b"abc")]
    ids = textbook.encode(textbook.pretokenize("abc abc bc ab"), vocab, merges)
    assert Tokenizer(vocab, merges).encode("abc abc bc ab") == ids == [97, 256, 32, 97, 256, 32, 256, 32, 257]
    assert Tokenizer(vocab, merges, whole_pieces=True).encode("abc abc bc ab") == [258, 259, 32, 256, 32, 257]


@given(data=st.data())
def test_every_id_sequence_decodes(
    by_specials: dict[tuple[str, ...], Tokenizer], data: st.DataObject
) -> None:
    """Few ids and many take different ways; the second way writes tokens that are longer than a head in two parts."""
    tokenizer = by_specials["<|endoftext|>",]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=20))
    expected = b"".join(tokenizer.vocab[i] for i in ids).decode("utf-8", errors="replace")
    arrays = [np.array(ids, dtype) for dtype in (np.uint16, np.uint64, np.int64, np.float64)]
    given_as: list[Any] = [ids, iter(ids), *arrays, [float(i) for i in ids]]
    assert tokenizer.decode(ids) == expected
    for head in map(np.dtype, ("u1", "u4", "c16")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(token_table, "HEAD", head)
            patch.setattr(token_table, "CHUNK", 7)
            patch.setattr(tokenizer_module, "FEW_IDS", 0)
            fresh = Tokenizer(tokenizer.vocab, tokenizer.merges, ["<|endoftext|>"])
            assert [fresh.decode(copy.copy(some)) for some in given_as] == [expected] * len(given_as)


@pytest.mark.parametrize("wrong", [-1, 260, 300, 1 << 24, 1 << 70, -(1 << 63), 1.5, None, "a"])
def test_an_unknown_id_is_named_wherever_it_stands(wrong: object) -> None:
    vocab = {i: bytes([i]) for i in range(256)} | {261: b"ab"}
    tokenizer = Tokenizer(vocab, [(b"a", b"b")])
    known = [261, *b"text"] * 5000
    assert tokenizer.decode_bytes(known) == b"abtext" * 5000
    for ids in ([wrong], [wrong, *known], [*known, wrong], [*known, wrong, -2]):
        with pytest.raises(
            InputError, match=re.escape(f"token id {wrong!r} is not in the vocabulary of 257")
        ):
            tokenizer.decode(ids)  # type: ignore[arg-type]
    if isinstance(wrong, int | float) and wrong != 1 << 70:
        with pytest.raises(InputError, match=f"token id {wrong} is not"):
            tokenizer.decode(np.array([*known, wrong], type(wrong)))


def test_more_than_uint16() -> None:
    singles = {i: bytes([i]) for i in range(256)}
    pairs = [(bytes([i]), bytes([j])) for i in range(256) for j in range(256)]
    vocab = singles | {256 + k: left + right for k, (left, right) in enumerate(pairs)}
    tokenizer = Tokenizer(vocab, pairs, ["<|endoftext|>"])
    text = "zz ÿÿ" * 2000 + "<|endoftext|>"
    assert tokenizer.encode_to_numpy(text).dtype == np.uint32
    assert tokenizer.encode_to_numpy(text).max() == tokenizer.special_tokens["<|endoftext|>"] == 65792
    assert tokenizer.encode(text) == as_tiktoken(tokenizer).encode(text, allowed_special="all")
    assert Tokenizer(singles, []).encode_to_numpy("a").dtype == np.uint16


def test_long_equals_short(by_specials: dict[tuple[str, ...], Tokenizer]) -> None:
    for specials, tokenizer in by_specials.items():
        text = "".join(CORNER_CASES) + "".join(specials)
        words = words_of(text, specials)
        assert tokenizer.encode(text) == textbook.encode(words, tokenizer.vocab, tokenizer.merges)
        assert tokenizer.encode_to_numpy(text).tolist() == tokenizer.encode(text)
        assert by_blocks(tokenizer, text, 1 << 18) == tokenizer.encode(text)


@pytest.mark.parametrize("pattern", ["cl100k", "o200k", r"\w+"])
def test_other_patterns(tmp_path: Path, pattern: str) -> None:
    tokenizer = trained(tmp_path, ["<|endoftext|>"], pattern)
    text = "".join(CORNER_CASES) * 3
    ids = tokenizer.encode(text)
    assert by_blocks(tokenizer, text, 100) == ids
    assert tokenizer.decode(ids) == text
    if pattern in PATTERNS:
        assert ids == as_tiktoken(tokenizer, pattern).encode(text, allowed_special="all")
        assert ids == as_tokenizers(tokenizer, tmp_path / "tokenizer.json").encode(text).ids
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).sha256 == tokenizer.sha256


def test_gpt2_files_encode_as_tiktoken(test_data: Path) -> None:
    folder = test_data / "gpt2"
    tokenizer = Tokenizer.from_files(folder / "vocab.json", folder / "merges.txt", ["<|endoftext|>"])
    assert tokenizer.vocab_size == 50257
    text = (test_data / "corpora/tinyshakespeare.txt").read_text() + "".join(CORNER_CASES)
    assert tokenizer.encode(text) == as_tiktoken(tokenizer).encode(text, allowed_special="all")
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("Hello world") == [15496, 995]


@pytest.mark.parametrize("specials", SPECIAL_SETS)
def test_save_and_load(
    by_specials: dict[tuple[str, ...], Tokenizer], tmp_path: Path, specials: list[str]
) -> None:
    tokenizer = by_specials[tuple(specials)]
    tokenizer.save(tmp_path)
    copies = [Tokenizer.load(tmp_path)]
    if "é" not in specials:  # which tokenizer.json cannot hold, see above
        tokenizer.save_tokenizers_json(tmp_path / "tokenizer.json")
        copies.append(Tokenizer.from_tokenizers_json(tmp_path / "tokenizer.json"))
    for loaded in copies:
        # Of two ids with the same bytes, a special token of one byte and that byte, the files hold one.
        assert set(loaded.vocab.values()) == set(tokenizer.vocab.values())
        assert loaded.merges == tokenizer.merges
        assert loaded.vocab_size == tokenizer.vocab_size
        assert loaded.special_tokens == tokenizer.special_tokens
        assert loaded.sha256 == tokenizer.sha256
    # With or without the version line, and with the line ends of another system.
    lines = (tmp_path / "merges.txt").read_text().split("\n")
    assert lines[0] == "#version: 0.2"
    (tmp_path / "merges.txt").write_bytes("\r\n".join(lines[1:]).encode())
    loaded = Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt", specials)
    assert loaded.merges == tokenizer.merges


@pytest.mark.parametrize(
    ("merges", "specials", "text"),
    [
        ([(b" ", b"t"), (b" t", b"h"), (b"e", b"r")], [" t"], " that other th"),
        ([(b"a", b"\n"), (b"l", b"l")], ["a\n"], "all a\na"),
        ([(b"h", b"e"), (b"l", b"l"), (b"he", b"ll")], ["he", "e"], "hell he"),
        ([(b"a", b" "), (b"l", b"l")], [" "], "all a ll"),
    ],
)
def test_a_special_token_may_be_part_of_a_merge(
    tmp_path: Path, merges: list[tuple[bytes, bytes]], specials: list[str], text: str
) -> None:
    vocab = dict(enumerate([bytes([i]) for i in range(256)] + [left + right for left, right in merges]))
    tokenizer = Tokenizer(vocab, merges, specials)
    library = as_tokenizers(tokenizer, tmp_path / "tokenizer.json")
    ids = tokenizer.encode(text)
    assert library.encode(text).ids == ids
    assert library.decode(ids, skip_special_tokens=False) == text
    assert Tokenizer.from_tokenizers_json(tmp_path / "tokenizer.json").sha256 == tokenizer.sha256


def test_special_tokens_that_a_reader_sees_stay_visible(
    by_specials: dict[tuple[str, ...], Tokenizer], tmp_path: Path
) -> None:
    """In, through our own files, and out: what the library's decoder leaves out stays the same."""
    old = by_specials["<|endoftext|>",]
    library = as_tokenizers(old, tmp_path / "in.json")
    library.add_tokens([tokenizers.AddedToken("<tool>", special=False, normalized=False)])
    library.save(str(tmp_path / "in.json"))
    Tokenizer.from_tokenizers_json(tmp_path / "in.json").save(tmp_path)
    back = as_tokenizers(Tokenizer.load(tmp_path), tmp_path / "out.json")
    ids = back.encode("a<tool>b<|endoftext|>").ids
    assert back.decode(ids) == library.decode(ids) == "a<tool>b"
    added = [json.loads((tmp_path / name).read_text())["added_tokens"] for name in ("in.json", "out.json")]
    assert added[0] == added[1]


def test_sha256_tells_tokenizers_apart(by_specials: dict[tuple[str, ...], Tokenizer]) -> None:
    tokenizer = by_specials[()]
    others = [
        Tokenizer(tokenizer.vocab, tokenizer.merges[:-1]),
        Tokenizer(tokenizer.vocab, tokenizer.merges, ["<|x|>"]),
        Tokenizer(tokenizer.vocab, tokenizer.merges, pattern="cl100k"),
    ]
    assert len({other.sha256 for other in [tokenizer, *others]}) == 4


def test_new_special_tokens_get_new_ids(by_specials: dict[tuple[str, ...], Tokenizer]) -> None:
    old = by_specials["<|endoftext|>",]
    tokenizer = Tokenizer(old.vocab, old.merges, ["<|endoftext|>", "<|pad|>", "<|pad|>", "<|eos|>"])
    size = old.vocab_size
    assert tokenizer.special_tokens == {"<|endoftext|>": 0, "<|pad|>": size, "<|eos|>": size + 1}
    assert tokenizer.encode("<|pad|><|eos|><|endoftext|>") == [size, size + 1, 0]
    assert old.vocab_size == size


def test_library_own_file_is_imported(tmp_path: Path) -> None:
    """A file that the library wrote after its own training, merges spelled the old way or the new."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=350,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator([TRAINING_TEXT], trainer)
    path = tmp_path / "tokenizer.json"
    library.save(str(path))
    text = "".join(CORNER_CASES)
    assert Tokenizer.from_tokenizers_json(path).encode(text) == library.encode(text).ids
    content = json.loads(path.read_text())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    path.write_text(json.dumps(content))
    assert Tokenizer.from_tokenizers_json(path).encode(text) == library.encode(text).ids


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalizer": {"type": "NFD"}}, "normalizer"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "space"),
        ({"post_processor": {"type": "TemplateProcessing"}}, "TemplateProcessing"),
        ({"model": {"type": "WordPiece", "vocab": {}, "merges": []}}, "WordPiece"),
        ({"model": 3}, "not a tokenizer.json"),
        ({"added_tokens": [{"id": 0, "content": "x", "single_word": True}]}, "single_word"),
    ],
)
def test_other_files_are_refused(
    by_specials: dict[tuple[str, ...], Tokenizer], tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "tokenizer.json"
    by_specials[()].save_tokenizers_json(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        Tokenizer.from_tokenizers_json(path)


def test_bad_input(by_specials: dict[tuple[str, ...], Tokenizer], tmp_path: Path) -> None:
    tokenizer = by_specials[()]
    for length in (1, 10_000):
        text = "a" * length + "\ud800"
        with pytest.raises(InputError, match=f"lone surrogate .* at character {length}"):
            tokenizer.encode(text)
        with pytest.raises(InputError, match="lone surrogate"):
            list(tokenizer.encode_iterable([text]))
    for ids in ([99999], [-1]):
        with pytest.raises(InputError, match="token id"):
            tokenizer.decode(ids)
    with pytest.raises(InputError, match="lacks 1 single bytes, the first is 244"):
        Tokenizer({i: bytes([i]) for i in range(244)}, [])
    with pytest.raises(InputError, match="merge 0"):
        Tokenizer({i: bytes([i]) for i in range(256)}, [(b"a", b"b")])
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    with pytest.raises(InputError, match=r"cannot read .*pretokenizer\.json"):
        Tokenizer.load(tmp_path)
    tokenizer.save(tmp_path)
    for path, content, message in (
        (vocab, "{", "not JSON"),
        (vocab, '["a"]', "must map"),
        (vocab, '{"a": 1, "b": 1}', "same id"),
        (vocab, '{"a": "1"}', "has the id '1'"),
        (merges, "#version: 0.2\na b c\n", "line 2"),
        (merges, "\xff", "Latin"),
        (tmp_path / "pretokenizer.json", "{}", "special_tokens"),
    ):
        good = path.read_bytes()
        path.write_bytes(content.encode("latin1"))
        with pytest.raises(InputError, match="UTF-8 at byte 0" if message == "Latin" else message):
            Tokenizer.load(tmp_path)
        path.write_bytes(good)
    assert Tokenizer.load(tmp_path).sha256 == tokenizer.sha256


@pytest.mark.parametrize("text", ["a", " ", "\n", "'", "👩", "<|endoftext|>", "ab"])
def test_monotonous_text_takes_no_time(by_specials: dict[tuple[str, ...], Tokenizer], text: str) -> None:
    tokenizer = by_specials["<|endoftext|>",]
    ids = tokenizer.encode_to_numpy(text * (400_000 // len(text)))
    assert tokenizer.decode(ids) == text * (400_000 // len(text))


def test_inspect(by_specials: dict[tuple[str, ...], Tokenizer]) -> None:
    tokenizer = by_specials["<|endoftext|>",]
    text = "the é\x1b[0m end\n<|endoftext|>"
    tokens = tokens_of(tokenizer, text)
    assert [i for i, _ in tokens] == tokenizer.encode(text)
    assert b"".join(token for _, token in tokens) == text.encode()
    shown = coloured(tokenizer, text)
    assert "\x1b[0m end" not in shown
    assert all(str(i) in shown for i, _ in tokens)
