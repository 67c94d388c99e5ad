"""Change a text before it is cut into pre-tokens, as some tokenizers of other programs do."""

import re
import sys
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Self

from tokenizer.errors import InputError

NON_ASCII_WHITESPACE = (
    "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
WHITESPACE = "\t\n\v\f\r " + NON_ASCII_WHITESPACE


@dataclass(frozen=True)
class Normalization:
    """The changes. By default there are none, and `decode(encode(text)) == text`."""

    nfc: bool = False
    """Bring the text between special tokens into Unicode's normal form C: "e" and a combining accent become "é"."""
    late: tuple[str, ...] = ()
    """The special tokens that are looked for after NFC."""
    lstrip: tuple[str, ...] = ()
    """The special tokens that drop the whitespace before them."""
    rstrip: tuple[str, ...] = ()
    """The special tokens that drop the whitespace after them."""

    def __bool__(self) -> bool:
        """Return whether a text may change."""
        return self != Normalization()

    def to_json(self) -> dict[str, Any]:
        """Return the settings that are not the default."""
        return {name: value for name, value in asdict(self).items() if value}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            InputError: the content is malformed.
        """
        match {"nfc": False, "late": [], "lstrip": [], "rstrip": []} | content:
            case {"nfc": bool(nfc), "late": [*late], "lstrip": [*left], "rstrip": [*right], **others}:
                if not others and all(isinstance(token, str) for token in (*late, *left, *right)):
                    return cls(nfc, *(tuple(map(str, tokens)) for tokens in (late, left, right)))
        raise InputError(f"normalization is {content!r:.60}, not the settings of a Normalization")


class Normalizer:
    """A `Normalization` of texts with some special tokens.

    >>> tokens = ["<|im_end|>", "<|sep|>"]
    >>> normalizer = Normalizer(Normalization(nfc=True, rstrip=("<|sep|>",)), tokens)
    >>> normalizer.apply("e\u0301 <|sep|> a<|im_end|> b")
    'é <|sep|>a<|im_end|> b'

    Raises:
        InputError: a change could make or break a special token.
    """

    def __init__(self, normalization: Normalization, special_tokens: Iterable[str]) -> None:
        self.has_late = bool(normalization.late)
        self._nfc = normalization.nfc
        self._lstrip, self._rstrip = frozenset(normalization.lstrip), frozenset(normalization.rstrip)
        special_tokens = list(special_tokens)
        self._all = _any_of(special_tokens)
        self._early = _any_of([token for token in special_tokens if token not in normalization.late])
        if self._nfc:
            for token in special_tokens:
                _refuse_changing(token)
        strips = self._lstrip | self._rstrip
        for token in sorted(strips):
            for other in special_tokens:
                if (
                    overlap(token, other)
                    or (other[:1] + other[-1:]).strip(WHITESPACE) != other[:1] + other[-1:]
                ):
                    raise InputError(
                        f"special token {token!a:.40} drops whitespace beside it, and the special token {other!a:.40} "
                        "overlaps with it or has whitespace at an end"
                    )

    def apply(self, text: str) -> str:
        """Return the changed text, in which the same special tokens stand."""
        if self._nfc and not unicodedata.is_normalized("NFC", text):
            parts = self._early.split(text) if self._early else [text]
            parts[::2] = [unicodedata.normalize("NFC", part) for part in parts[::2]]
            text = "".join(parts)
        if (self._lstrip or self._rstrip) and self._all:
            parts = self._all.split(text)
            for i in range(1, len(parts), 2):
                if parts[i] in self._lstrip:
                    parts[i - 1] = parts[i - 1].rstrip(WHITESPACE)
                if parts[i] in self._rstrip:
                    parts[i + 1] = parts[i + 1].lstrip(WHITESPACE)
            text = "".join(parts)
        return text


def overlap(a: str, b: str) -> bool:
    """Return whether a text may end with the beginning of another one, or of itself, or holds another one."""
    return (a != b and (a in b or b in a)) or any(
        a.endswith(b[:n]) or b.endswith(a[:n]) for n in range(1, min(len(a), len(b)) - (len(a) == len(b)) + 1)
    )


def _any_of(tokens: list[str]) -> re.Pattern[str] | None:
    """Return a pattern of the longest token at a place, in a group."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})") if tokens else None


def _refuse_changing(token: str) -> None:
    """Refuse a special token that NFC changes, or makes of other text."""
    unlike_ascii = [char for char in token if not char.isascii() or char in "K;`"]
    for char in unlike_ascii:
        if unicodedata.normalize("NFD", char) != char or char in _made_by_nfc():
            raise InputError(
                f"special token {token!a:.40} has {char!a}, which NFC makes of other characters, too"
            )
    if unicodedata.combining(token[0]) or not unicodedata.is_normalized("NFC", "e" + token):
        raise InputError(f"special token {token!a:.40} begins with a combining character, which NFC may move")


@cache
def _made_by_nfc() -> frozenset[str]:
    """Return the characters that stand in the NFC of one other character."""
    characters = map(chr, range(sys.maxunicode + 1))
    changed = (
        unicodedata.normalize("NFC", char)
        for char in characters
        if not unicodedata.is_normalized("NFC", char)
    )
    return frozenset("".join(changed))
