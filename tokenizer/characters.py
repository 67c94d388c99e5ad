"""The kinds of characters that patterns tell apart, as the module regex knows them.

Only characters of the Basic Multilingual Plane are here, the first 65,536. Text with others is rare, and goes to the
module regex itself.
"""

from functools import cache

import numpy as np
import regex

BMP = 1 << 16  # code points

# Kinds of characters are bits, so that a pair of neighbours is classified by one OR.
LETTER, DIGIT, OTHER, BREAK, SPACE = 1, 2, 4, 8, 16


@cache
def runs_of(kind: str) -> list[tuple[int, int]]:
    r"""Return the first and the last code point of each run of characters that a class of the module regex holds.

    >>> runs_of("[0-9a-f]")
    [(48, 57), (97, 102)]
    """
    everything = np.arange(BMP, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    return [
        (start, end - 1) for start, end in (match.span() for match in regex.finditer(f"{kind}+", everything))
    ]


@cache
def kinds() -> np.ndarray:
    r"""Return the kind of each code point, as GPT-2's pattern tells them apart.

    LETTER is `\p{L}`, DIGIT is `\p{N}`, SPACE is the ASCII space, BREAK is other whitespace, and OTHER is the rest.
    """
    table = np.full(BMP, OTHER, np.uint8)
    for kind, bit in ((r"\p{L}", LETTER), (r"\p{N}", DIGIT), (r"\s", BREAK)):
        for first, last in runs_of(kind):
            table[first : last + 1] = bit
    table[ord(" ")] = SPACE
    return table
