"""A tokenizer.json as it is in the wild: the ids of the library tokenizers, or a refusal that names the cause."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings

from lm.cli import main
from tests.tokenizer.real_files import BYTES, GPT2, LLAMA3, split, steps
from tests.tokenizer.texts import CORNER_CASES, FAMILIAR_TEXTS
from tokenizer import END_OF_TEXT, InputError, NotByteLevel, Tokenizer, textbook, train_bpe
from tokenizer.files.oniguruma import matches_everything, translate
from tokenizer.pretokenize import PATTERNS

TRAINING_TEXT = (
    "".join(CORNER_CASES) * 2 + "the end of the theme, then 'tis his thesis; 12 走走走 día días " * 20
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The content of a tokenizer.json whose merges also cross words, as a pattern of another kind lets them."""
    path = tmp_path_factory.mktemp("plain") / "tokenizer.json"
    path.write_bytes(TRAINING_TEXT.encode())
    vocab, merges = train_bpe(path, 380, [END_OF_TEXT], pattern=r"[^\n]{1,9}|\n")
    Tokenizer(vocab, merges, [END_OF_TEXT]).save_tokenizers_json(path)
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def both(content: Any, path: Path) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    path.write_text(json.dumps(content))
    return Tokenizer.from_tokenizers_json(path), tokenizers.Tokenizer.from_file(str(path))


def assert_same_ids(content: Any, path: Path) -> Tokenizer:
    ours, library = both(content, path)

    @settings(max_examples=15)
    @given(text=FAMILIAR_TEXTS)
    def check(text: str) -> None:
        assert ours.encode(text) == library.encode(text, add_special_tokens=False).ids
        assert ours.decode(ours.encode(text)) == text

    check()
    text = TRAINING_TEXT + "".join(CORNER_CASES)
    ids = library.encode(text, add_special_tokens=False).ids
    assert ours.encode(text) == ids
    # Through our own files, and out again.
    ours.save(path.parent / "saved")
    loaded = Tokenizer.load(path.parent / "saved")
    assert loaded.sha256 == ours.sha256
    assert loaded.encode(text) == ids
    return ours


PRE_TOKENIZERS = {
    "byte level": GPT2,
    "a sequence of one": steps(steps(GPT2)),
    "nothing but bytes": BYTES,
    "Llama 3": steps(split(LLAMA3), BYTES),
    "GPT-4": steps(split(PATTERNS["cl100k"], "Removed", invert=True), BYTES),
    "Llama 3, removed": steps(split(LLAMA3, "Removed", invert=True), BYTES),
    "merged with previous": steps(split(PATTERNS["cl100k"], "MergedWithPrevious"), BYTES),
    "merged with next": steps(split(PATTERNS["o200k"], "MergedWithNext"), BYTES),
    "inverted": steps(split(LLAMA3, invert=True), BYTES),
    "digits, then words": steps({"type": "Digits", "individual_digits": True}, GPT2),
    "numbers, then words": steps({"type": "Digits", "individual_digits": False}, GPT2),
    "three splits": steps(split(r"\p{N}{1,3}"), split("[一-龥]+"), split(r"[\r\n]|\s?\p{L}+|\s+$"), BYTES),
    "a literal": steps(split(".", kind="String"), split("the", kind="String"), GPT2),
    "gaps": steps(split(r"\p{L}+"), BYTES),
    "empty matches": steps(split(r"\p{L}*"), split(r"\b"), BYTES),
    "words": steps(split(r"[\w']+|\W"), BYTES),
    "word boundaries": steps(split(r"\B."), BYTES),
    "any character": steps(split("a.|.b"), BYTES),
    "lines": steps(split(r"^.|\s$|x\z"), BYTES),
    "look around": steps(split(r"(?<=\n)\s+|(?<![a-z])th(?!e)|(?>a+)b?"), BYTES),
    "any case": steps(split(r"(?i)the|'S"), BYTES),
}


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_pre_tokenizers(plain: dict[str, Any], tmp_path: Path, name: str) -> None:
    assert_same_ids(plain | {"pre_tokenizer": PRE_TOKENIZERS[name]}, tmp_path / "tokenizer.json")


def template(*single: dict[str, Any]) -> dict[str, Any]:
    begin = {"id": END_OF_TEXT, "ids": [0], "tokens": [END_OF_TEXT]}
    return {
        "type": "TemplateProcessing",
        "single": list(single),
        "pair": list(single),
        "special_tokens": {END_OF_TEXT: begin},
    }


TEXT = {"Sequence": {"id": "A", "type_id": 0}}
MODELS: dict[str, dict[str, Any]] = {
    "dropout of 0": {"dropout": 0.0},
    "an unknown token": {"unk_token": END_OF_TEXT},
    "byte fallback": {"byte_fallback": True},
    "empty affixes": {"continuing_subword_prefix": "", "end_of_word_suffix": ""},
    "fused": {"fuse_unk": True},
    "ignored merges": {"ignore_merges": True},
}
OTHERS: dict[str, dict[str, Any]] = {
    "an empty normalizer": {"normalizer": {"type": "Sequence", "normalizers": []}},
    "offsets alone": {"post_processor": {"type": "Sequence", "processors": [BYTES, template(TEXT)]}},
    "a first token": {"post_processor": template({"SpecialToken": {"id": END_OF_TEXT, "type_id": 0}}, TEXT)},
    "padding of batches": {
        "padding": {
            "strategy": "BatchLongest",
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": END_OF_TEXT,
        }
    },
}


@pytest.mark.parametrize("name", [*MODELS, *OTHERS])
def test_settings_that_change_no_id(plain: dict[str, Any], tmp_path: Path, name: str) -> None:
    content = plain | OTHERS.get(name, {}) | {"model": plain["model"] | MODELS.get(name, {})}
    assert_same_ids(content, tmp_path / "tokenizer.json")


def test_the_first_gpt2_file(plain: dict[str, Any], tmp_path: Path) -> None:
    """No type of model, merges as text, few settings: as GPT-2's own file has it."""
    model = {key: plain["model"][key] for key in ("vocab", "merges")}
    model["merges"] = [" ".join(pair) for pair in model["merges"]]
    assert_same_ids(plain | {"model": model}, tmp_path / "tokenizer.json")


def test_a_pair_that_occurs_twice(plain: dict[str, Any], tmp_path: Path) -> None:
    model = plain["model"] | {"merges": [*plain["model"]["merges"], *plain["model"]["merges"][:20:3]]}
    assert_same_ids(plain | {"model": model}, tmp_path / "tokenizer.json")


@pytest.mark.parametrize("pre_tokenizer", [GPT2, steps(split(LLAMA3), BYTES)])
def test_tokens_that_no_merge_makes(
    plain: dict[str, Any], tmp_path: Path, pre_tokenizer: dict[str, Any]
) -> None:
    """As in Llama 3, whole words come before merges; also through blocks, other processes' setups and exports."""
    model = plain["model"] | {"ignore_merges": True}
    words = [
        "Ġtheme",
        "Ġthesis",
        "ĠdÃŃas",
        "Ġhis",
        "Ġof",
        "Ġ12",
        "Ã©" * 150,
        "走走走走".encode().decode("latin1"),
    ]
    size = len(model["vocab"])
    model["vocab"] = model["vocab"] | {word: size + i for i, word in enumerate(words)}
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) not in words]
    ours = assert_same_ids(
        plain | {"model": model, "pre_tokenizer": pre_tokenizer}, tmp_path / "tokenizer.json"
    )
    assert len(set(ours.encode(TRAINING_TEXT)) & set(range(size, size + len(words)))) >= 4
    text = TRAINING_TEXT * 3
    copy = type(ours.stream_encoder).from_setup(json.loads(json.dumps(ours.stream_encoder.setup())))
    from io import BytesIO

    ids = [i for some, _ in copy.encode(BytesIO(text.encode()).read, 100) for i in some.tolist()]
    assert ids == ours.encode(text) == list(ours.encode_iterable(text))
    ours.save_tokenizers_json(tmp_path / "out.json")
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "out.json")).encode(text).ids == ids
    assert ours.sha256 != Tokenizer(ours.vocab, ours.merges, [END_OF_TEXT], ours.pretokenizer.pattern).sha256


def added(*tokens: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return lambda plain: {"added_tokens": [*plain["added_tokens"], *(flags | token for token in tokens)]}


def test_added_tokens(plain: dict[str, Any], tmp_path: Path) -> None:
    size = len(plain["model"]["vocab"])
    tokens = [
        {"id": size, "content": "<a>", "normalized": True},
        {"id": size + 1, "content": " 't"},
        {"id": plain["model"]["vocab"]["the"], "content": "the", "special": False},
        {"id": size + 2, "content": "走"},
    ]
    assert_same_ids(plain | added(*tokens)(plain), tmp_path / "tokenizer.json")


SIZE = 380
REFUSED: list[tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = [
    (lambda plain: {"normalizer": {"type": "NFKC"}}, "normalizer NFKC"),
    (
        lambda plain: {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}},
        "normalizer Lowercase",
    ),
    (lambda plain: {"truncation": {"max_length": 3}}, "truncation"),
    (lambda plain: {"padding": {"strategy": {"Fixed": 8}}}, "padding"),
    (lambda plain: {"pre_tokenizer": None}, "pre_tokenizer is missing"),
    (lambda plain: {"pre_tokenizer": split("a")}, "pre_tokenizer is Split, not ByteLevel"),
    (
        lambda plain: {"pre_tokenizer": steps(split("a", "Removed"), BYTES)},
        "'a' is Removed and may lose text",
    ),
    (lambda plain: {"pre_tokenizer": steps(split(LLAMA3, "Removed"), BYTES)}, "is Removed and may lose text"),
    (
        lambda plain: {"pre_tokenizer": steps(split(r"\w+", "Removed", invert=True), BYTES)},
        "Removed, inverted,",
    ),
    (lambda plain: {"pre_tokenizer": steps(split("a", "MergedWithNext"), BYTES)}, "MergedWithNext"),
    (lambda plain: {"pre_tokenizer": steps(split(LLAMA3, "Contiguous"), BYTES)}, "Contiguous"),
    (lambda plain: {"pre_tokenizer": steps(BYTES, split("a"), BYTES)}, "ByteLevel before the end"),
    (lambda plain: {"pre_tokenizer": steps({"type": "WhitespaceSplit"}, BYTES)}, "WhitespaceSplit"),
    (
        lambda plain: {"pre_tokenizer": steps(split(r"\h+"), BYTES)},
        r"has \\h, which may match something else",
    ),
    (lambda plain: {"pre_tokenizer": steps(split(r"\p{N}{1,3}+"), BYTES)}, r"has \{1,3\}\+"),
    (lambda plain: {"pre_tokenizer": steps(split("[a&&b]"), BYTES)}, "has &&"),
    (lambda plain: {"pre_tokenizer": steps(split("(?m:a)"), BYTES)}, r"has \(\?"),
    (lambda plain: {"pre_tokenizer": steps(split("(?i:ss)"), BYTES)}, "has ss in any case"),
    (lambda plain: {"pre_tokenizer": steps(split("("), BYTES)}, "regular expression"),
    (
        added({"id": SIZE + 9, "content": "<a>"}),
        f"has the id {SIZE + 9}, but the library would give it {SIZE}",
    ),
    (added({"id": 5, "content": "the"}), "'the' has the id 5, but"),
    (added({"id": SIZE, "content": "é"}), "has the id 380, but the library"),
    (added({"id": SIZE, "content": "<a>", "single_word": True}), "single_word"),
    (
        added({"id": SIZE, "content": "ab"}, {"id": SIZE + 1, "content": "bc", "normalized": True}),
        "'bc' is normalized, and overlaps with 'ab'",
    ),
    (lambda plain: {"model": plain["model"] | {"dropout": 0.1}}, "dropout"),
    (lambda plain: {"model": plain["model"] | {"type": "Unigram"}}, "Unigram"),
    (lambda plain: {"model": plain["model"] | {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_changes_ids_is_refused_by_name(
    plain: dict[str, Any], tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(plain | change(plain)))
    with pytest.raises(InputError, match=message) as error:
        Tokenizer.from_tokenizers_json(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
SENTENCEPIECE: dict[str, dict[str, Any]] = {
    "Gemma": {
        "normalizer": SPACES,
        "pre_tokenizer": split(" ", "MergedWithPrevious", kind="String"),
    },
    "Llama 2": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": "▁"}, SPACES],
        },
        "pre_tokenizer": None,
    },
    "Mistral": {
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "first",
            "split": False,
        },
    },
    "T5": {"model": {"type": "Unigram", "vocab": []}},
}


@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_another_kind_of_tokenizer_has_an_error_of_its_own(
    plain: dict[str, Any], tmp_path: Path, name: str
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(plain | SENTENCEPIECE[name]))
    with pytest.raises(NotByteLevel, match="only byte-level BPE can"):
        Tokenizer.from_tokenizers_json(path)


def test_patterns_that_leave_no_text() -> None:
    """Of the patterns that do, one is tried above."""
    for pattern in (r"\w+", r"\w+|\s+", r"\S*|\s", r"\S+(?= )|\s+", r"\s+|[^\s]+$", "(a|b|.)x"):
        assert not matches_everything(translate(pattern))


def test_a_folder_with_both_kinds_of_files(
    plain: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Qwen and SmolLM ship all three: tokenizer.json says how text is cut, GPT-2's files do not."""
    folder, out = tmp_path / "folder", tmp_path / "out"
    vocab, merges = textbook.train(textbook.pretokenize("the theme, then his thesis"), 270, [END_OF_TEXT])
    Tokenizer(vocab, merges, [END_OF_TEXT]).save(folder)
    (folder / "pretokenizer.json").unlink()
    command = ["tokenizer", "import", "--input", str(folder), "--out", str(out)]
    content = plain | {"pre_tokenizer": PRE_TOKENIZERS["digits, then words"]}
    ours, library = both(content, folder / "tokenizer.json")
    assert main(command) == 0
    assert Tokenizer.load(out).sha256 == ours.sha256
    assert Tokenizer.load(out).encode(TRAINING_TEXT) == library.encode(TRAINING_TEXT).ids
    (folder / "tokenizer.json").write_text(json.dumps(content | {"normalizer": {"type": "NFD"}}))
    capsys.readouterr()
    assert main([*command[:-1], str(tmp_path / "more")]) == 2
    assert "tokenizer.json cannot be imported: it has a normalizer NFD" in capsys.readouterr().err
    (folder / "tokenizer.json").unlink()
    settings = folder / "tokenizer_config.json"
    settings.write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    assert main([*command[:-1], str(tmp_path / "more")]) == 2
    assert "the tokenizer is Qwen2Tokenizer, not GPT-2's" in capsys.readouterr().err
    settings.write_text('{"tokenizer_class": "GPT2TokenizerFast"}')
    assert main([*command[:-1], str(tmp_path / "more")]) == 0
    assert Tokenizer.load(tmp_path / "more").sha256 == Tokenizer(vocab, merges, [END_OF_TEXT]).sha256
