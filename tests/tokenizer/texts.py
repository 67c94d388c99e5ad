"""Texts that have broken tokenizers, and ways to draw more."""

from hypothesis import strategies as st

# Letters, digits and marks of several scripts, every kind of whitespace, what `str.isspace` takes for it but
# `\s` does not (U+001C ...), apostrophes, quotes, NUL, a BOM, an emoji of several code points.
_ALPHABET = [
    *"abstvedlmrAZ019.,!-<|>_#é中жßñ٣½Ⅷ",
    *" \t\n\r\v\f\x85\xa0\u1680\u2003\u2028\u202f\u205f\u3000\u200b",
    *"\x00\x01\x1c\x1d\x1e\x1f\x7f'’“”\"\ufeff\u0301\U0001f469\u200d\U00010400",
    "  ", "   ", "\r\n", "\n\n", " '", "'s", "'ll", "'re", "'Ve", "''", "don't", " the", "aaaa", "1234", "👩‍🚒",
]  # fmt: skip

TEXTS = st.one_of(
    st.lists(st.sampled_from(_ALPHABET), max_size=40).map("".join),
    st.text(alphabet="ab", max_size=60),
    st.text(alphabet=" \n'sa\u3000é.1", max_size=40),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)

# Without characters that only some programs' versions of Unicode know.
FAMILIAR_TEXTS = st.lists(st.sampled_from([*_ALPHABET, "²", "½x"]), max_size=30).map("".join)

SPECIAL_SETS: list[list[str]] = [
    [],
    ["<|endoftext|>"],
    ["<|endoftext|>", "<|endoftext|><|endoftext|>"],
    ["<|", "<|end|>", "|>", "ab"],
    [" ", "\n\n", "é", "中文"],
    ["aa", "aab", "ba"],
    ["<|a token of many bytes|>", "<|endoftext|>", "<|a token", "é"],
    ["a b", " a", ".*", "[", "'s", "\u3000", "$^"],
]
SPECIALS = st.sampled_from(SPECIAL_SETS)


@st.composite
def texts_with_specials(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Draw special tokens, and a text in which they occur: adjacent, overlapping, in and between words."""
    specials = draw(SPECIALS)
    parts = (
        st.one_of(TEXTS, st.sampled_from(specials), st.sampled_from([s[1:] for s in specials]))
        if specials
        else TEXTS
    )
    return "".join(draw(st.lists(parts, max_size=6))), specials


CORNER_CASES = [
    "", " ", "  ", "\n", "a", "'", "'s", "é", "\x00", "\x00\x00", "a\x00", "a\x00\x00b", "\r\n\r\n", "\ufeffa", "a\n",
    "a  <|endoftext|>  b", "<|endoftext|>", "<|endoftext|><|endoftext|>", "a <|endoftext|", "x   ", "x \n ", "\u3000 a",
    "It's \u2019s ’s", "\x1ca\x1c b\x1f  c", "a" * 300, " " * 300, "\n" * 300, "'" * 300, "é" * 300, "\u3000" * 300,
    "ab " * 100, "word" * 100 + " 12345678901234567", "don't" * 60, "👩‍🚒" * 30, "\t\t\tx\t y", "中文 中文  中文\n",
]  # fmt: skip

# Patterns that leave text between matches, or match nothing, or look around.
OWN_PATTERNS = [
    r"\w+", r"[^\n]*", r"\p{L}*", r"\b", "a|b", "", "(?=a)", "(?<=a)b|$", "(a)|b(c)?", "x*?", r"(?r)\w{1,2}", r"\K ",
]  # fmt: skip
