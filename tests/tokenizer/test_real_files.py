"""Files of the structures of well-known models: the library's ids for any text, by every way through our code."""

import json
import random
import unicodedata
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
import tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.tokenizer.real_files import FILES, NEVER_IN_UTF8, Content
from tests.tokenizer.texts import CORNER_CASES
from tokenizer import InputError, Tokenizer, train_bpe
from tokenizer.files.gpt2 import to_unicode
from tokenizer.normalizer import Normalization
from tokenizer.parallel.ranges import cut_files, open_range

WORDS = [
    "the end of the theme, then 'tis his thesis; ", "día días naïve Zoë ", "走走走 中文。", "Привет мир ", "ភាសាខ្មែរ ",
    "नमस्ते ", "한국어 각", "ไทย ", "עברית ", "0123 ½²Ⅷ", "don't I'LL we've", "👩‍🚒🏽🇩🇪", "x=1;\n\tif (a<b):\r\n",
]  # fmt: skip
# What NFC composes, reorders or replaces: letters and signs, accents, Hangul, single characters.
CHANGED_BY_NFC = [
    *"aeoAnEs<=>",
    *"\u0301\u0308\u0323\u0327\u0338",
    *"각\u1100\u1161\u11a8",
    *"\u212a\u037e\u1fef\u2126\u0958\u2000",
]
SPACES = [*"\t\n\r\v \x85\xa0\u1680\u2003\u2028\u3000\x1c\u200b", "  ", "\r\n", "   \n"]


def texts(tokens: list[str], number: int, seed: int = 0) -> Iterator[str]:
    """Yield texts of words, corner cases, whitespace, control characters, and added tokens, whole and broken."""
    rng = random.Random(seed)
    sources = [
        WORDS,
        CHANGED_BY_NFC,
        SPACES,
        tokens,
        ["\x00", "\x07", "\ufeff", "\u200d"],
        [c[:30] for c in CORNER_CASES],
    ]
    weights = [3, 4, 2, 4, 1, 1]
    for _ in range(number):
        parts = []
        for source in rng.choices(sources, weights, k=rng.randrange(9)):
            part = rng.choice(source)
            parts.append(part if rng.random() < 0.9 else part[rng.randrange(len(part) + 1) :])
        yield "".join(parts)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Content:
    path = tmp_path_factory.mktemp("plain") / "tokenizer.json"
    path.write_bytes("".join([*WORDS, *CORNER_CASES] * 3).encode())
    vocab, merges = train_bpe(path, 500, [], pattern="o200k")
    Tokenizer(vocab, merges, []).save_tokenizers_json(path)
    content: Content = json.loads(path.read_text())
    return content


def both(content: Content, path: Path) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    path.write_text(json.dumps(content))
    return Tokenizer.from_tokenizers_json(path), tokenizers.Tokenizer.from_file(str(path))


@pytest.mark.parametrize("name", FILES)
def test_the_ids_are_the_librarys(plain: Content, tmp_path: Path, name: str) -> None:
    content = FILES[name](plain)
    ours, library = both(content, tmp_path / "tokenizer.json")
    # Through our own files, and out again.
    ours.save_tokenizers_json(tmp_path / "out.json")
    exported = tokenizers.Tokenizer.from_file(str(tmp_path / "out.json"))
    ours.save(tmp_path / "saved")
    loaded = Tokenizer.load(tmp_path / "saved")
    assert loaded.sha256 == ours.sha256
    tokens = [token["content"] for token in content["added_tokens"]]
    spelled_like_bytes = {to_unicode(bytes([byte])) for byte in NEVER_IN_UTF8}
    some = list(texts(tokens, 300))
    for text in some:
        ids = library.encode(text, add_special_tokens=False).ids
        assert loaded.encode(text) == ids, text
        assert exported.encode(text, add_special_tokens=False).ids == ids
        # The library decodes such an added token as a byte, even if its text is meant.
        if not spelled_like_bytes.intersection(text):
            assert ours.decode(ids) == library.decode(ids, skip_special_tokens=False)
        if not ours.normalization:
            assert ours.decode(ids) == text
    # In blocks, in ranges of a file, in another process.
    text = "".join(some)
    ids = library.encode(text, add_special_tokens=False).ids
    assert ours.encode(text) == ids
    assert list(ours.encode_iterable(some)) == ids
    copy = type(ours.stream_encoder).from_setup(json.loads(json.dumps(ours.stream_encoder.setup())))
    assert [i for part, _ in copy.encode(BytesIO(text.encode()).read, 100) for i in part.tolist()] == ids
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode())
    in_ranges: list[int] = []
    for _, start, end in cut_files([str(path)], ours.pretokenizer, 500):
        with open_range(str(path), start, end) as read:
            in_ranges += [i for part, _ in copy.encode(read) for i in part.tolist()]
    assert in_ranges == ids


def test_nfc_changes_the_text_between_special_tokens(plain: Content, tmp_path: Path) -> None:
    ours, _ = both(FILES["Qwen 3"](plain), tmp_path / "tokenizer.json")
    # A stroke through ">" is one character, but not through the end of a special token.
    text = "a>\u0338 e\u0301<|im_end|>\u0338\u212a"
    assert ours.decode(ours.encode(text)) == "a≯ é<|im_end|>\u0338K"
    plain_text = Tokenizer(ours.vocab, ours.merges, ours.special_tokens, ours.pretokenizer.pattern)
    assert plain_text.encode(text) != ours.encode(text)
    assert plain_text.sha256 != ours.sha256
    for text in texts([""], 200):
        assert ours.decode(ours.encode(text)) == unicodedata.normalize("NFC", text)


def test_tokens_that_drop_whitespace(plain: Content, tmp_path: Path) -> None:
    ours, _ = both(FILES["Phi-4"](plain), tmp_path / "tokenizer.json")
    assert ours.decode(ours.encode("a \n<|im_start|>\u3000 b \x1c")) == "a<|im_start|>b \x1c"
    assert ours.normalization.lstrip == ours.normalization.rstrip == tuple(ours.special_tokens)


@pytest.mark.parametrize(
    ("normalization", "special", "message"),
    [
        (Normalization(nfc=True), "<KEEP>", "'<KEEP>' has 'K', which NFC makes of other characters"),
        (Normalization(nfc=True), "<é>", "which NFC makes of other characters"),
        (Normalization(nfc=True), "\u030b<", "begins with a combining character"),
        (Normalization(rstrip=("<a>",)), "> b", r"'<a>' drops whitespace .* '> b' overlaps with it"),
        (Normalization(rstrip=("<a>",)), " x", "' x' overlaps with it or has whitespace at an end"),
        (Normalization(lstrip=("aba",)), "aba", "'aba' overlaps with it"),
    ],
)
def test_normalizations_that_could_make_or_break_a_token_are_refused(
    normalization: Normalization, special: str, message: str
) -> None:
    tokens = [special, *normalization.lstrip, *normalization.rstrip]
    with pytest.raises(InputError, match=message):
        Tokenizer({i: bytes([i]) for i in range(256)}, [], tokens, normalization=normalization)


@pytest.mark.parametrize("bad", ['{"nfc": 1}', '{"late": [1]}', '{"nfd": true}', '{"lstrip": "a"}', "[1]"])
def test_a_damaged_normalization_is_refused(plain: Content, tmp_path: Path, bad: str) -> None:
    ours, _ = both(FILES["Qwen 3"](plain), tmp_path / "tokenizer.json")
    ours.save(tmp_path)
    path = tmp_path / "pretokenizer.json"
    assert '"normalization": {\n    "nfc": true\n  }' in path.read_text()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalization": json.loads(bad)}))
    with pytest.raises(InputError, match=r"normalization|must hold"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "settings", [{}, {"bos_token": "<|eot_id|>", "add_bos_token": True}, {"add_bos_token": False}]
)
def test_a_text_begins_as_transformers_begins_it(plain: Content, tmp_path: Path, settings: Content) -> None:
    """The post-processor decides, whatever tokenizer_config.json says."""
    ours, library = both(FILES["Llama 3"](plain), tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | settings)
    )
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert ours.bos_token == "<|begin_of_text|>"
    whole = [ours.special_tokens[ours.bos_token], *ours.encode("the end")]
    assert theirs("the end")["input_ids"] == whole
    # Through our own files, and out again.
    ours.save(tmp_path / "saved")
    loaded = Tokenizer.load(tmp_path / "saved")
    assert loaded.bos_token == ours.bos_token
    assert loaded.sha256 == ours.sha256
    loaded.save_tokenizers_json(tmp_path / "out.json")
    exported = tokenizers.Tokenizer.from_file(str(tmp_path / "out.json"))
    assert exported.encode("the end").ids == whole
    assert exported.encode("the", "end").ids == library.encode("the", "end").ids
    assert Tokenizer.from_tokenizers_json(tmp_path / "out.json").bos_token == ours.bos_token


def test_first_tokens_that_are_none_are_refused(plain: Content, tmp_path: Path) -> None:
    content = FILES["Llama 3"](plain)
    ours, _ = both(content, tmp_path / "tokenizer.json")
    with pytest.raises(InputError, match="bos_token is '<s>', which is not a special token"):
        Tokenizer(ours.vocab, ours.merges, ours.special_tokens, bos_token="<s>")
    post_processor = content["post_processor"]["processors"][1]
    post_processor["single"].insert(0, post_processor["single"][0])
    with pytest.raises(InputError, match=r"puts the ids \[\d+, \d+\] in front of a text"):
        both(content, tmp_path / "tokenizer.json")


@pytest.mark.parametrize("name", ["Qwen 3", "Phi-4", "SmolLM"])
def test_transformers_reads_what_we_export(plain: Content, tmp_path: Path, name: str) -> None:
    ours, _ = both(FILES[name](plain), tmp_path / "in.json")
    ours.save_tokenizers_json(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(theirs, PreTrainedTokenizerFast)
    for text in texts(list(ours.special_tokens), 50):
        assert theirs(text)["input_ids"] == ours.encode(text)
