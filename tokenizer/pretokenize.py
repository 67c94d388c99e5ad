"""Cut text into pre-tokens, within which byte pairs merge: special tokens first, then a regex."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import chain, pairwise

import numpy as np
import regex

from tokenizer.characters import runs_of
from tokenizer.errors import InputError
from tokenizer.normalizer import Normalization, Normalizer
from tokenizer.spans import edges_of

# Sources: GPT-2's encoder.py; tiktoken's openai_public.py for the other two.
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    ),
    "o200k": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}

END_OF_TEXT = "<|endoftext|>"  # GPT-2's special token between documents

FEW_TEXTS = 500  # that are not ASCII: for so few a pattern of their own is not worth its 50 ms
_BEYOND_BMP = re.compile("[\U00010000-\U0010ffff]").search

Pattern = str | tuple[str, ...]


class Pretokenizer:
    """A pattern and special tokens, which together cut any text into pre-tokens.

    A special token is never merged and never cut: text on its two sides is tokenized as if it stood alone.
    If several match at one place, the longest wins.

    >>> Pretokenizer("gpt2", ["<|eot|>"]).split("It's  here.<|eot|>")
    ['It', "'s", ' ', ' here', '.', '<|eot|>']

    Args:
        pattern: a name in `PATTERNS`, or any regular expression in the syntax of the module `regex`. It cuts text
            wherever a match starts or ends, even an empty one, so no text is lost. Each of several patterns cuts the
            pieces that the pattern before it has left.
        special_tokens: strings; none may be empty.
        normalization: how a text changes before it is cut. `split` and `parts` take a text that has changed.

    Raises:
        InputError: the pattern does not compile, or a special token cannot be used.
    """

    def __init__(
        self,
        pattern: str | Sequence[str] = "gpt2",
        special_tokens: Iterable[str] = (),
        normalization: Normalization | None = None,
    ) -> None:
        patterns = (pattern,) if isinstance(pattern, str) else tuple(pattern)
        self.pattern: Pattern = patterns[0] if len(patterns) == 1 else patterns
        self.special_tokens = list(dict.fromkeys(special_tokens))
        self.special_set = frozenset(self.special_tokens)
        for token in self.special_tokens:
            if not token:
                raise InputError("a special token is the empty string; leave it out")
            encode_utf8(token, "special token")
        self.normalization = normalization or Normalization()
        self.normalizer = Normalizer(normalization, self.special_tokens) if normalization else None
        self._regexes = [_compile(pattern) for pattern in patterns]
        self._known = self.pattern if isinstance(self.pattern, str) and self.pattern in PATTERNS else ""
        self._find_in_ascii = _in_ascii(self._known).findall if self._known else None
        self._find_in_bmp: Callable[[str], list[str]] | None = None  # see `FEW_TEXTS`
        self._num_not_ascii = 0  # texts so far
        self._longest_first = sorted((token.encode() for token in self.special_tokens), key=len, reverse=True)
        self.longest_special = max(map(len, self._longest_first), default=0)  # in bytes
        self._special_text = (
            re.compile(f"({_any_of(self._longest_first).decode()})") if self.special_tokens else None
        )

    def split(self, text: str) -> list[str]:
        """Return the pre-tokens of `text` in order, including special tokens. Joined they are `text`."""
        pieces: list[str] = []
        for i, part in enumerate(self.parts(text)):
            pieces += [part] if i % 2 else self.split_ordinary(part)
        return pieces

    def parts(self, text: str) -> list[str]:
        """Return the text cut at special tokens: every other part is one, and the first part is not."""
        if not self._special_text or (len(self.special_tokens) == 1 and self.special_tokens[0] not in text):
            return [text]
        return self._special_text.split(text)

    def special_spans(self, data: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Return where special tokens start and end in UTF-8 text."""
        # One literal is found fast, and one of several is found slowly: look for each first.
        present = [token for token in self._longest_first if token in data]
        if len(present) == 1:
            (token,) = present
            ends = edges_of([len(part) + len(token) for part in data.split(token)])[1:-1]
            return ends - len(token), ends
        parts = re.split(b"(" + _any_of(present) + b")", data) if present else []
        edges = edges_of([len(part) for part in parts])  # every other part is a special token
        return edges[1:-1:2], edges[2:-1:2]

    def split_ordinary(self, text: str) -> list[str]:
        """Return the pre-tokens of a text without special tokens."""
        if self._find_in_ascii:  # a known pattern: these match every character
            if text.isascii():
                return self._find_in_ascii(text)
            if self._find_in_bmp and not _BEYOND_BMP(text):
                return self._find_in_bmp(text)
            self._num_not_ascii += 1
            if self._num_not_ascii == FEW_TEXTS:
                self._find_in_bmp = _in_bmp(self._known).findall
            return self._regexes[0].findall(text)
        pieces = [text]
        for pattern in self._regexes:
            pieces = [part for piece in pieces for part in _cut(piece, pattern)]
        return pieces


@cache
def _in_ascii(name: str) -> re.Pattern[str]:
    """Return a known pattern for ASCII text, for the module re, which takes half the time of regex.

    >>> _in_ascii("gpt2").pattern[20:55]
    '| [A-Za-z]+|[A-Za-z][A-Za-z]*| [0-9'
    """
    # ASCII has no letters or marks of other kinds.
    ranges = {r"\p{L}": "A-Za-z", r"\p{Lu}": "A-Z", r"\p{Ll}": "a-z", r"\p{N}": "0-9", r"\s": r"\s"}
    return re.compile(_with_ranges(PATTERNS[name], lambda kind: ranges.get(kind, "")), re.ASCII)


@cache
def _in_bmp(name: str) -> re.Pattern[str]:
    """Return a known pattern for text of the first 65,536 code points, for the module re.

    The ranges of the classes are those of the module regex.
    """

    def ranges(kind: str) -> str:
        return "".join(f"\\u{first:04x}-\\u{last:04x}" for first, last in runs_of(kind))

    return re.compile(_with_ranges(PATTERNS[name], ranges))


def _with_ranges(pattern: str, ranges: Callable[[str], str]) -> str:
    """Return a known pattern with its classes spelled out, given the inside of a class for each kind."""

    def spell(match: re.Match[str]) -> str:
        inside = re.sub(r"\\p\{\w+\}|\\s", lambda kind: ranges(kind[0]), match[0].replace(r"\S", r"[^\s]"))
        return inside if inside.startswith("[") else f"[{inside}]"

    # The possessive forms (`++`) only save time in these patterns, and Python 3.11.4 has faults in them.
    greedy = re.sub(r"([+*?])\+", r"\1", pattern)
    spelled = re.sub(r"\[[^]]*\]|\\p\{\w+\}|\\[sS]", spell, greedy)
    # The module re looks at a first character before it tries an alternative, but not at an optional one.
    return re.sub(r" \?(\[[^]]*\])\+(?=\|)", r" \1+|\1\1*", spelled)


def _compile(pattern: str) -> regex.Pattern[str]:
    try:
        encode_utf8(pattern, "pattern")
        return regex.compile(PATTERNS.get(pattern, pattern))
    except InputError:
        raise
    except (regex.error, ValueError, OverflowError, RecursionError) as error:
        names = ", ".join(PATTERNS)
        raise InputError(
            f"pattern {pattern!r:.200} is neither one of {names} nor a regular expression: {error}"
        ) from None


def _cut(text: str, pattern: regex.Pattern[str]) -> list[str]:
    """Return the parts of a text between the places where a match starts or ends.

    >>> _cut("ab 12", regex.compile("[0-9]")), _cut("abc", regex.compile("(?=b)"))
    (['ab ', '1', '2'], ['a', 'bc'])
    """
    spans = chain.from_iterable(match.span() for match in pattern.finditer(text))
    edges = sorted({0, len(text), *spans})
    return [text[start:end] for start, end in pairwise(edges)]


def encode_utf8(text: str, what: str = "text") -> bytes:
    """Return `text` as UTF-8, or raise an `InputError` that says where a lone surrogate stands."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} has a lone surrogate {text[error.start]!a} at character {error.start}, which UTF-8 "
            f"cannot express; replace it, for example with text.encode('utf-8', 'replace').decode()"
        ) from None


def _any_of(literals: list[bytes]) -> bytes:
    """Return a regular expression that matches any of the literals, the first that fits."""
    return b"|".join(map(re.escape, literals))
