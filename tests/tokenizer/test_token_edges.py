"""Pieces are cut as the module regex cuts them, whatever their characters are."""

from itertools import pairwise, product

import pytest
import regex
from hypothesis import given

from tests.tokenizer.texts import CORNER_CASES, TEXTS, texts_with_specials
from tests.tokenizer.words import pretokens
from tokenizer import token_edges
from tokenizer.pretokenize import Pretokenizer
from tokenizer.spans import edges_of
from tokenizer.textbook import GPT2

EVERY_CHARACTER = [chr(code) for code in range(1 << 16) if not 0xD800 <= code < 0xE000]


def tokens_of(pieces: list[str], pretokenizer: Pretokenizer) -> list[str]:
    """Cut all pieces at once."""
    data = [piece.encode() for piece in pieces]
    joined = b"".join(data)
    edges = token_edges.token_edges(joined, edges_of([len(piece) for piece in data]), pretokenizer)
    return [joined[start:end].decode() for start, end in pairwise(edges.tolist())]


def expected(pieces: list[str]) -> list[str]:
    return [token for piece in pieces for token in regex.findall(GPT2, piece)]


def test_every_character_beside_every_kind() -> None:
    """Each of the BMP beside itself, a letter, a number, a sign, whitespace of two kinds, apostrophes and nothing."""
    pieces = [char.join(["", *"a1. \n\u3000'sé", "", " "]) for char in EVERY_CHARACTER]
    assert tokens_of(pieces, Pretokenizer()) == expected(pieces)


@pytest.mark.parametrize("letters", ["sa", "la", "é\U00010400", "x\u3000"])
def test_every_short_piece(letters: str) -> None:
    """All pieces of one to five characters, among them contractions at every place."""
    pieces = ["".join(piece) for n in range(1, 6) for piece in product(f"{letters}' \n1", repeat=n)]
    assert tokens_of(pieces, Pretokenizer()) == expected(pieces)


@given(text_specials=texts_with_specials(), other=TEXTS)
def test_special_tokens_stay_whole(text_specials: tuple[str, list[str]], other: str) -> None:
    text, specials = text_specials
    # A piece that is no token has an apostrophe or a character that is not ASCII.
    pieces = [*specials, *(f"{piece}'" for piece in [text, other, *CORNER_CASES])]
    pieces = [piece for piece in pieces if piece in specials or not any(s in piece for s in specials)]
    found = [token for piece in pieces for token in pretokens(piece, specials)]
    for size in (token_edges.PART, 20, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(token_edges, "PART", size)
            assert tokens_of(pieces, Pretokenizer("gpt2", specials)) == found
