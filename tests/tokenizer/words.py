"""Words for the textbook's BPE, of texts with special tokens and for any pattern."""

from collections.abc import Sequence
from itertools import pairwise

import regex

from tokenizer.textbook import GPT2, Word


def cut(text: str, pattern: str) -> list[str]:
    """Return the pieces of `text` between all places where a match starts or ends."""
    edges = {0, len(text)} | {edge for match in regex.finditer(pattern, text) for edge in match.span()}
    return [text[start:end] for start, end in pairwise(sorted(edges))]


def pretokens(text: str, special_tokens: Sequence[str] = (), pattern: str = GPT2) -> list[str]:
    """Cut out the leftmost special token, the longest in a tie, until none is left; cut the rest by the pattern."""
    pieces: list[str] = []
    while found := [special for special in special_tokens if special in text]:
        special = min(found, key=lambda special: (text.index(special), -len(special)))
        ordinary, _, text = text.partition(special)
        pieces += [*cut(ordinary, pattern), special]
    return pieces + cut(text, pattern)


def words_of(text: str, special_tokens: Sequence[str] = (), pattern: str = GPT2) -> list[Word]:
    """Return the pre-tokens as words: a special token is one token, another word one token for each byte."""
    return [
        (piece.encode(),) if piece in special_tokens else tuple(bytes([byte]) for byte in piece.encode())
        for piece in pretokens(text, special_tokens, pattern)
    ]
