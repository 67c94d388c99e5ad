"""Cut pieces of text into pre-tokens of GPT-2's pattern: all pieces at once, by the kinds of neighbouring characters.

The pattern is `'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+`. Which of its
alternatives takes a character follows from the kinds of the characters beside it:

1.  A letter, a number or another character that is no whitespace starts a token if what precedes it is of another
    kind, unless that is a space. A space before it belongs to its token: if several characters of whitespace precede
    it, `\\s+(?!\\S)` leaves the last one over.
2.  So whitespace starts a token after a character that is no whitespace, and before one. Otherwise it continues a
    run of whitespace.
3.  An apostrophe that starts a token begins a contraction if the letters of one follow, because this alternative comes
    first. What follows the contraction starts a token, whatever it is.
"""

from itertools import pairwise

import numpy as np

from tokenizer.characters import DIGIT, LETTER, OTHER, SPACE, kinds
from tokenizer.pretokenize import Pretokenizer

_SOLID = LETTER | DIGIT | OTHER  # no whitespace
PART = 1 << 20  # bytes that are cut at a time; the arrays take twenty times as many
_FIRST_OF_FOUR = 0xF0  # the first byte of a character beyond the BMP is not smaller


def token_edges(data: bytes, edges: np.ndarray, pretokenizer: Pretokenizer) -> np.ndarray:
    """Return the edges of the pre-tokens in pieces of a `Block`. Call it once for each distinct piece.

    Args:
        data: UTF-8.
        edges: piece i is `data[edges[i]:edges[i + 1]]`, and no piece is empty.
        pretokenizer: the pattern and the special tokens. With another pattern than GPT-2's each piece is a pre-token.
    """
    if pretokenizer.pattern != "gpt2" or len(edges) == 1:
        return edges
    firsts = np.searchsorted(edges, np.arange(0, edges[-1], PART)).tolist()
    cut = [
        edges[first]
        + _cut(data[edges[first] : edges[after]], edges[first : after + 1] - edges[first], pretokenizer)
        for first, after in pairwise([*firsts, len(edges) - 1])
        if first < after
    ]
    return np.concatenate([*(part[:-1] for part in cut), edges[-1:]])


def _cut(data: bytes, edges: np.ndarray, pretokenizer: Pretokenizer) -> np.ndarray:
    """Do what `token_edges` does for a part of the pieces."""
    array = np.frombuffer(data, np.uint8)
    is_edge = np.zeros(len(data) + 1, bool)
    if data.isascii():
        if b"'" not in data:
            return edges
        is_edge[:-1] = _starts(array, edges[:-1])
    else:
        characters = ((array & 0xC0) != 0x80).nonzero()[0]  # their first bytes
        code_points = np.frombuffer(data.decode().encode("utf-32-le"), "<u4")
        is_edge[characters] = _starts(code_points, np.searchsorted(characters, edges[:-1]))
    is_edge[edges] = True
    for piece in _exceptions(array, edges, pretokenizer):
        start, end = edges[piece : piece + 2].tolist()
        is_edge[start + 1 : end] = False
        text = data[start:end].decode()
        if text not in pretokenizer.special_set:
            lengths = [len(token.encode()) for token in pretokenizer.split_ordinary(text)]
            is_edge[start + np.cumsum(lengths)] = True
    return is_edge.nonzero()[0]


def _exceptions(array: np.ndarray, edges: np.ndarray, pretokenizer: Pretokenizer) -> list[int]:
    """Return the pieces that `_starts` may cut wrongly: those beyond the BMP, and those like a special token."""
    found = np.zeros(len(edges) - 1, bool)
    beyond = (array >= _FIRST_OF_FOUR).nonzero()[0]
    found[np.searchsorted(edges, beyond, "right") - 1] = True
    for token in map(str.encode, pretokenizer.special_tokens):
        found |= (np.diff(edges) == len(token)) & (array[edges[:-1]] == token[0])
    return found.nonzero()[0].tolist()


def _starts(code_points: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return for each character whether it starts a token, given where pieces begin."""
    found = kinds().take(code_points, mode="clip")
    before = np.empty_like(found)
    before[1:] = found[:-1]
    before[first] = 0
    is_solid = (found & _SOLID) != 0
    is_last_of_run = np.zeros(len(found), bool)
    is_last_of_run[:-1] = is_solid[1:]
    is_last_of_run[first[1:] - 1] = False  # the end of a piece looks like the end of the text
    starts = np.where(
        is_solid, (before != found) & (before != SPACE), ((before & _SOLID) != 0) | is_last_of_run
    )
    starts[first] = True
    _mark_contractions(code_points, first, starts)
    return starts


def _mark_contractions(code_points: np.ndarray, first: np.ndarray, starts: np.ndarray) -> None:
    at = (code_points == ord("'")).nonzero()[0]
    at = at[starts[at]]
    ends = np.append(first, len(code_points))[np.searchsorted(first, at, "right")]
    for letters in ("s", "d", "m", "t", "ll", "ve", "re"):
        here = at[at + len(letters) < ends]
        for i, letter in enumerate(letters, 1):
            here = here[code_points[here + i] == ord(letter)]
        starts[here + 1] = False
        after = here + 1 + len(letters)
        starts[after[after < len(starts)]] = True
