"""Cut UTF-8 bytes into pieces at certain token boundaries of GPT-2's pattern, without running the pattern.

Why this is exact. GPT-2's pattern is `'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+|
?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+`. It has no look-behind and matches every character, so what it finds
from a token boundary on does not depend on the text before it. It does not depend on the text after the next
certain boundary either: a match that ends at or before the boundary is also found if the text ends there, and
a longer match would cross the boundary. Only the look-ahead of `\\s+(?!\\S)` sees the end: it could make
whitespace right before a boundary one token instead of two. But if a boundary below follows whitespace that is
not left to the next token, there is also a boundary right before that last character. So a piece between two
neighbouring boundaries holds the same tokens alone as in its context. The bytes nearby make these boundaries
certain:

1.  Between two ASCII bytes that are letter, digit or other (not whitespace, not an apostrophe) and differ in
    kind: no alternative matches across (a contraction ends in a letter, and a new match starts after it).
    Between ASCII whitespace that is not a space and one of those three: only a space may lead a token.
2.  Before ASCII whitespace that follows a non-whitespace character: no alternative continues from one to the
    other. Before ASCII whitespace that precedes a non-whitespace character: `\\s+(?!\\S)` leaves the last
    character of a run of whitespace to the next token. The non-whitespace may be non-ASCII here: UTF-8 bytes
    that occur as first or last byte of a whitespace character are known, and all others are part of another
    character.

Beside apostrophes (which may start a contraction) and non-ASCII characters (which may be letters or not)
there is no other cut. If a piece holds neither, rules 1 and 2 have found every boundary, so the piece is one
token. `token_edges` cuts the other pieces, each distinct piece once.

Special tokens are certain boundaries at both ends, and look like the end of text from outside. Their bytes
count as "unknown" here, and these rules never cut beside an unknown byte.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tokenizer.characters import BREAK, DIGIT, LETTER, OTHER, SPACE
from tokenizer.normalizer import NON_ASCII_WHITESPACE
from tokenizer.pretokenize import PATTERNS, Pattern, Pretokenizer
from tokenizer.spans import runs

BLOCK = 1 << 18  # bytes; larger ones no longer fit in a core's cache

# Besides the kinds of ASCII characters:
SOLID, UNKNOWN = 32, 0


def _class_table() -> bytes:
    """Return the class of each byte, as a table for `bytes.translate`.

    SOLID bytes are part of a non-whitespace character of unknown kind, BREAK is whitespace other than a
    space, UNKNOWN bytes may be part of non-ASCII whitespace.
    """
    table = bytearray([SOLID]) * 256
    for byte in range(128):
        char = chr(byte)
        if char.isalpha():
            table[byte] = LETTER
        elif char.isdigit():
            table[byte] = DIGIT
        elif char in "\t\n\v\f\r":  # not str.isspace, which accepts U+001C to U+001F; \s does not
            table[byte] = BREAK
        elif char == " ":
            table[byte] = SPACE
        elif char != "'":
            table[byte] = OTHER
    for char in NON_ASCII_WHITESPACE:
        table[char.encode()[0]] = table[char.encode()[-1]] = UNKNOWN
    return bytes(table)


CLASSES = _class_table()


def certain_boundaries(classes: np.ndarray) -> np.ndarray:
    """Return for each byte but the first whether a token certainly starts there, given all bytes' classes.

    >>> text = b"Hi, you  2"
    >>> (certain_boundaries(np.frombuffer(text.translate(CLASSES), np.uint8)).nonzero()[0] + 1).tolist()
    [2, 3, 7, 8]
    """
    # Rule 1: of letter, digit, other and break, a pair holds two different ones, so two of the bits are set.
    # (Break after one of the others is a cut by rule 2.)
    kinds = (classes[1:] | classes[:-1]) & (LETTER | DIGIT | OTHER | BREAK)
    cut = (kinds & (kinds - 1)) != 0
    # Rule 2.
    solid = (classes & (LETTER | DIGIT | OTHER | SOLID)) != 0
    beside_solid = solid[:-1].copy()
    beside_solid[:-1] |= solid[2:]
    beside_solid &= (classes[1:] & (BREAK | SPACE)) != 0
    cut |= beside_solid
    return cut


@dataclass(frozen=True)
class Block:
    """Pieces of text: piece i is `data[edges[i]:edges[i + 1]]`."""

    data: bytes
    edges: np.ndarray
    offset: int  # of data[0] in the stream


def cut_blocks(
    read: Callable[[int], bytes],
    pretokenizer: Pretokenizer,
    block_size: int = BLOCK,
    first_size: int = BLOCK,
    check: bool = True,
) -> Iterator[Block]:
    """Yield the pieces of a stream; special tokens are pieces of their own.

    With GPT-2's pattern a piece is one pre-token, or several if it holds an apostrophe or a non-ASCII
    character (see `cuts`). With other patterns it is one pre-token.

    If the pretokenizer has a normalizer, the pieces are those of the changed text.

    Args:
        read: returns the next bytes of the stream, at most as many as its argument says, and none at the end.
        pretokenizer: the pattern and the special tokens.
        block_size: how many bytes to read at a time.
        first_size: how many bytes to read first, if fewer. Each later read doubles them.
        check: make sure that the text is UTF-8. A text that was a str needs no check.

    Raises:
        UnicodeDecodeError: the text is not UTF-8; its `start` counts from the start of the stream.
    """
    tail, offset, size = b"", 0, min(first_size, block_size)
    while True:
        # Read at least as much as is left over, so that a piece longer than many blocks costs linear time.
        chunk = read(max(size, len(tail)))
        data = tail + chunk
        if not data:
            return
        edges = _edges(data, pretokenizer, is_last=not chunk)
        end = int(edges[-1])
        if check:
            _check_utf8(data[:end], offset)
        block = data
        if pretokenizer.normalizer:
            block = pretokenizer.normalizer.apply(data[:end].decode()).encode()
            edges = _edges(block, pretokenizer, is_last=True)
        if pretokenizer.pattern != "gpt2":
            edges = _split_sections(block, edges, pretokenizer)
        if len(edges) > 1:
            yield Block(block, edges, offset)
        if not chunk:
            return
        tail = data[end:]
        offset += end
        size = min(2 * size, block_size)


def _edges(data: bytes, pretokenizer: Pretokenizer, is_last: bool) -> np.ndarray:
    """Return where `data` can certainly be cut: from 0 to its end, which is left out if more text follows."""
    starts, ends = pretokenizer.special_spans(data)
    classes = np.frombuffer(bytearray(data.translate(CLASSES)), np.uint8)
    classes[runs(starts, ends - starts)] = UNKNOWN
    is_edge = certain_edges(classes, pretokenizer.pattern)
    is_edge[starts] = is_edge[ends] = True
    is_edge[0] = True
    if is_last:
        is_edge[len(data)] = True
    else:
        if pretokenizer.normalizer:
            is_edge &= normalizes_alone(data, pretokenizer)
        # The byte after an edge, or a special token around it, may be incomplete at the end of the data.
        is_edge[max(1, len(data) - pretokenizer.longest_special - 1) :] = False
    return is_edge.nonzero()[0]


def normalizes_alone(data: bytes, pretokenizer: Pretokenizer) -> np.ndarray:
    """Return for each byte, and for the end of the data, whether the text can be cut before it and then change.

    It can between a character that is not whitespace and an ASCII letter, digit or sign: NFC joins such a character
    with none before it, and no special token drops whitespace across the cut. The start can be a cut, too. If NFC may
    break a special token, the token's ends are no cuts.
    """
    classes = np.frombuffer(data.translate(CLASSES), np.uint8)
    can = np.zeros(len(data) + 1, bool)
    can[0] = True
    can[1:-1] = (classes[:-1] & (LETTER | DIGIT | OTHER | SOLID) != 0) & (
        classes[1:] & (LETTER | DIGIT | OTHER) != 0
    )
    if pretokenizer.normalizer and pretokenizer.normalizer.has_late:
        starts, ends = pretokenizer.special_spans(data)
        can[starts[starts > 0]] = can[ends] = False
    return can


def _check_utf8(data: bytes, offset: int) -> None:
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            error.start += offset
            raise


def certain_edges(classes: np.ndarray, pattern: Pattern) -> np.ndarray:
    """Return for each byte, and for the end of the data, whether a pre-token certainly starts there."""
    is_edge = np.zeros(len(classes) + 1, bool)
    if pattern == "gpt2":
        is_edge[1:-1] = certain_boundaries(classes)
    elif pattern in PATTERNS:
        # In the other known patterns, no token continues from an ASCII letter to a space before a letter either.
        is_edge[1:-2] = (classes[:-2] == LETTER) & (classes[1:-1] == SPACE) & (classes[2:] == LETTER)
    return is_edge


def _split_sections(data: bytes, edges: np.ndarray, pretokenizer: Pretokenizer) -> np.ndarray:
    """Return the edges of all pre-tokens, given those of sections that can be tokenized alone."""
    lengths: list[int] = []
    for start, end in pairwise(edges.tolist()):
        section = data[start:end].decode()
        pieces = [section] if section in pretokenizer.special_set else pretokenizer.split_ordinary(section)
        lengths += map(len, pieces) if section.isascii() else [len(piece.encode()) for piece in pieces]
    return np.cumsum([0, *lengths])
