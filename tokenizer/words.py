"""Short texts: cut them at single spaces, and look up the ids of each word without running the pattern.

Why this is exact. In the patterns of `PATTERNS` no token continues from a character that is not whitespace to a space,
and a space before such a character leads the next token. So a pre-token certainly starts at a space between two
characters that are not whitespace. The patterns look ahead only at whitespace, and a word begins and ends with none, so
a word with its space gives the ids that it gives in its text.
"""

from collections.abc import Callable
from itertools import chain

MAX_WORDS = 1 << 16


class UncertainError(Exception):
    """A space stands beside other whitespace, so the pattern must say where the pre-tokens start."""


class WordEncoder:
    """Encodes texts without special tokens whose only whitespace beside words is single spaces.

    Args:
        encode: returns the ids of a text by running the pattern.
    """

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        self._encode = encode
        self._first = _Words("", encode)
        self._later = _Words(" ", encode)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, in which a space may stand at the start and at the end.

        Raises:
            UncertainError: the text has other whitespace beside a word.
        """
        words = text.split(" ")
        ids = self._first[words[0]].copy() if words[0] else []
        del words[0]
        ends_in_space = words and not words[-1]
        if ends_in_space:
            del words[-1]
        ids.extend(chain.from_iterable(map(self._later.__getitem__, words)))
        return ids + self._encode(" ") if ends_in_space else ids


class _Words(dict[str, list[int]]):
    """The ids of words after a prefix, remembered up to a bound."""

    def __init__(self, prefix: str, encode: Callable[[str], list[int]]) -> None:
        super().__init__()
        self._prefix, self._encode = prefix, encode

    def __missing__(self, word: str) -> list[int]:
        # str.isspace knows every character that \s matches, and some more.
        if not word or word[0].isspace() or word[-1].isspace():
            raise UncertainError
        if len(self) >= MAX_WORDS:
            self.clear()
        ids = self[word] = self._encode(self._prefix + word)
        return ids
