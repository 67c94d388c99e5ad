"""Cut UTF-8 bytes into pieces at certain token boundaries of GPT-2's pattern, without running the pattern.

Why this is exact. GPT-2's pattern is `'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+|
?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+`. It has no look-behind and matches every character, so what it finds
from a token boundary on does not depend on the text before. Nor does it depend on the text after the next
certain boundary: a match that ends there or earlier is found as well when the text ends there, and a longer
one would cross the boundary. Only the look-ahead of `\\s+(?!\\S)` sees the end: it could make whitespace
right before a boundary one token instead of two. But where a boundary below follows whitespace that is not
left to the next token, there is one right before that last character, too. So a piece between two
neighbouring boundaries holds the same tokens alone as in its context. Certain are, by the bytes nearby:

1.  Between two ASCII bytes that are letter, digit or other (not whitespace, not an apostrophe) and differ in
    kind: no alternative matches across (a contraction ends in a letter, and what follows it starts anew).
    Between ASCII whitespace that is not a space and one of those three: only a space may lead a token.
2.  Before ASCII whitespace that follows a non-whitespace character: no alternative goes on from one to the
    other. Before ASCII whitespace that precedes a non-whitespace character: `\\s+(?!\\S)` leaves the last
    character of a run of whitespace to the next token. The non-whitespace may be non-ASCII here: UTF-8 bytes
    that occur as first or last byte of a whitespace character are known, all others are part of something
    else.

Beside apostrophes (which may start a contraction) and non-ASCII characters (which may be letters or not)
there is no other cut. Where neither occurs, rules 1 and 2 find every boundary, so such a piece is one token;
the others are left to the regex, which sees each distinct one once.

Special tokens are certain boundaries at both ends, and look like the end of text from outside: their bytes
count as "unknown" here, beside which there is no cut by these rules.
"""

import numpy as np

# Classes of bytes are bits, so that a pair of neighbours is classified by one OR.
LETTER, DIGIT, OTHER, BREAK, SPACE, SOLID, UNKNOWN = 1, 2, 4, 8, 16, 32, 0
NON_ASCII_WHITESPACE = (
    "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


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
    if len(classes) == 0:
        return np.zeros(0, bool)
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
