"""The pieces of blocks tokenize alone as they do in context."""

from io import BytesIO
from itertools import pairwise, product
from pathlib import Path

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tokenizer.texts import CORNER_CASES, OWN_PATTERNS, SPECIAL_SETS, TEXTS, texts_with_specials
from tests.tokenizer.words import pretokens
from tokenizer import pretokenize
from tokenizer.cuts import cut_blocks
from tokenizer.normalizer import NON_ASCII_WHITESPACE
from tokenizer.parallel.ranges import cut_files, open_range, safe_edges
from tokenizer.pretokenize import PATTERNS, Pretokenizer
from tokenizer.token_edges import token_edges


def tokens_by_blocks(text: str, pretokenizer: Pretokenizer, block_size: int) -> list[str]:
    """Cut a text into pre-tokens as training and encoding do; check that certain ones are left alone."""
    tokens: list[str] = []
    for block in cut_blocks(BytesIO(text.encode()).read, pretokenizer, block_size):
        edges = token_edges(block.data, block.edges, pretokenizer).tolist()
        tokens += [block.data[start:end].decode() for start, end in pairwise(edges)]
    return tokens


def expected(text: str, specials: list[str], pattern: str = "gpt2") -> list[str]:
    return pretokens(text, specials, PATTERNS[pattern])


@given(text_specials=texts_with_specials(), block_size=st.sampled_from([1, 3, 7, 40, 1 << 18]))
@example(("x  <|endoftext|>  <|endoftext|>y", ["<|endoftext|>"]), 1)
@example(("aaab aab aa", ["aa", "aab"]), 1)
def test_blocks_equal_regex(text_specials: tuple[str, list[str]], block_size: int) -> None:
    text, specials = text_specials
    assert tokens_by_blocks(text, Pretokenizer("gpt2", specials), block_size) == expected(text, specials)


@pytest.mark.parametrize("specials", SPECIAL_SETS)
@pytest.mark.parametrize("block_size", [1, 5, 64])
def test_corner_cases(specials: list[str], block_size: int) -> None:
    for text in [*CORNER_CASES, "".join(CORNER_CASES)]:
        assert tokens_by_blocks(text, Pretokenizer("gpt2", specials), block_size) == expected(text, specials)


@pytest.mark.parametrize("pattern", ["cl100k", "o200k"])
@given(text_specials=texts_with_specials(), block_size=st.sampled_from([1, 7, 1 << 18]))
def test_other_patterns(pattern: str, text_specials: tuple[str, list[str]], block_size: int) -> None:
    text, specials = text_specials
    assert tokens_by_blocks(text, Pretokenizer(pattern, specials), block_size) == expected(
        text, specials, pattern
    )


@pytest.mark.parametrize("pattern", OWN_PATTERNS)
@settings(max_examples=30)
@given(text_specials=texts_with_specials(), block_size=st.sampled_from([1, 7, 1 << 18]))
@example(("a\nb\n\nc12", []), 1)
def test_own_pattern_loses_no_text(
    pattern: str, text_specials: tuple[str, list[str]], block_size: int
) -> None:
    text, specials = text_specials
    pretokenizer = Pretokenizer(pattern, specials)
    pieces = pretokenizer.split(text)
    assert "".join(pieces) == text
    assert "" not in pieces
    assert pieces == pretokens(text, specials, pattern)
    assert tokens_by_blocks(text, pretokenizer, block_size) == pieces


def test_several_patterns_cut_one_after_the_other() -> None:
    pretokenizer = Pretokenizer([r"\p{N}", "gpt2"], ["<|x|>"])
    assert pretokenizer.split("a 12's<|x|> b") == ["a", " ", "1", "2", "'s", "<|x|>", " b"]
    assert tokens_by_blocks("a 12's<|x|> b", pretokenizer, 1) == pretokenizer.split("a 12's<|x|> b")


@given(text=TEXTS)
def test_short_path_equals_blocks(text: str) -> None:
    pretokenizer = Pretokenizer("gpt2", ["<|end|>", "é"])
    assert pretokenizer.split(text) == tokens_by_blocks(text, pretokenizer, 5)


@given(
    text_specials=texts_with_specials(),
    range_size=st.integers(1, 20),
    pattern=st.sampled_from(["gpt2", "cl100k", r"\w+|\W", r"\b", r"[^\n]*"]),
)
def test_ranges_equal_whole(
    tmp_path_factory: pytest.TempPathFactory,
    text_specials: tuple[str, list[str]],
    range_size: int,
    pattern: str,
) -> None:
    """Wherever a file is cut into ranges, their pre-tokens are those of the whole."""
    text, specials = text_specials
    pretokenizer = Pretokenizer(pattern, specials)
    path = tmp_path_factory.getbasetemp() / "ranges.txt"
    path.write_bytes(text.encode())
    ranges = list(cut_files([str(path)], pretokenizer, range_size, window=8))
    assert [0, *[end for _, _, end in ranges]] == [*[start for _, start, _ in ranges], len(text.encode())]
    tokens: list[str] = []
    for _, start, end in ranges:
        with open_range(str(path), start, end) as read:
            tokens += tokens_by_blocks(read(end - start).decode(), pretokenizer, 1 << 18)
    assert tokens == pretokenizer.split(text)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_safe_edges_cut_every_short_text(pattern: str) -> None:
    """Both sides of a safe edge tokenize alone as they do together: all texts of four such characters."""
    pretokenizer = Pretokenizer(pattern)
    num_edges = 0
    for middle in map("".join, product(" \na1's\u3000é", repeat=4)):
        text = f"xx{middle}yy"
        data = text.encode()
        whole = pretokenizer.split(text)
        for edge in safe_edges(data, pretokenizer).tolist():
            num_edges += 1
            assert (
                pretokenizer.split(data[:edge].decode()) + pretokenizer.split(data[edge:].decode()) == whole
            )
    assert num_edges > 200


@pytest.mark.parametrize("pattern", PATTERNS)
def test_ascii_text_is_cut_as_the_whole_pattern_cuts_it(pattern: str) -> None:
    """All texts of four characters, of each kind that a pattern tells apart."""
    pretokenizer, whole = Pretokenizer(pattern), regex.compile(PATTERNS[pattern])
    for text in map("".join, product(" \n\x1ca'sL1/", repeat=4)):
        assert pretokenizer.split_ordinary(text) == whole.findall(text)


@given(text=st.text(st.characters(max_codepoint=127)), pattern=st.sampled_from([*PATTERNS]))
def test_any_ascii_text_is_cut_as_the_whole_pattern_cuts_it(text: str, pattern: str) -> None:
    assert Pretokenizer(pattern).split(text) == regex.findall(PATTERNS[pattern], text)


@pytest.fixture
def of_the_bmp(monkeypatch: pytest.MonkeyPatch) -> dict[str, Pretokenizer]:
    """Return pretokenizers that take the module re from the first text on, by the names of their patterns."""
    monkeypatch.setattr(pretokenize, "FEW_TEXTS", 1)
    found = {pattern: Pretokenizer(pattern) for pattern in PATTERNS}
    for pretokenizer in found.values():
        pretokenizer.split_ordinary("é")
        assert pretokenizer._find_in_bmp
    return found


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_character_of_the_bmp_is_cut_as_the_whole_pattern_cuts_it(
    of_the_bmp: dict[str, Pretokenizer], pattern: str
) -> None:
    """Each beside itself, letters of both cases, a number, a mark, a sign, whitespace, and in a contraction."""
    whole, cut = regex.compile(PATTERNS[pattern]), of_the_bmp[pattern].split_ordinary
    for code in (*range(0x80, 0xD800), *range(0xE000, 1 << 16)):
        text = chr(code).join(["", *"aB1. \n\u0301/'\u3000é", "", " ", "'", "'l", "lé"])
        assert cut(text) == whole.findall(text)


@given(
    text=st.one_of(TEXTS, st.text(st.characters(min_codepoint=0x80))), pattern=st.sampled_from([*PATTERNS])
)
def test_any_text_is_cut_as_the_whole_pattern_cuts_it(text: str, pattern: str) -> None:
    """Also after many texts, when the module re cuts those of the BMP."""
    pretokenizer = Pretokenizer(pattern)
    for few in (pretokenize.FEW_TEXTS, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pretokenize, "FEW_TEXTS", few)
            pretokenizer.split_ordinary("é")
            assert pretokenizer.split_ordinary(text) == regex.findall(PATTERNS[pattern], text)
            pretokenizer._num_not_ascii = 0


def test_ranges_are_many(tmp_path: Path) -> None:
    """The cuts are not only certain but also frequent."""
    path = tmp_path / "text.txt"
    path.write_text("Once upon a time. " * 1000 + "<|endoftext|>")
    for pattern in PATTERNS:
        assert len(list(cut_files([str(path)], Pretokenizer(pattern, ["<|endoftext|>"]), 1000))) >= 17


def test_whitespace_is_known() -> None:
    """No other character is whitespace to the regex, in this version of Unicode or the next."""
    everything = "".join(chr(code) for code in range(0x80, 0x110000) if not 0xD800 <= code < 0xE000)
    assert "".join(regex.findall(r"\s", everything)) == NON_ASCII_WHITESPACE
