"""Translate regular expressions of Oniguruma, which the library tokenizers uses, for the module regex."""

import sys
from functools import cache
from itertools import chain

import regex

from tokenizer.errors import InputError

# Oniguruma counts these digits of Latin-1 among the characters of words, and does not count the zero-width joiners.
_WORD_CHARACTERS = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}²³¹¼½¾"
_WORD = f"[{_WORD_CHARACTERS}]"
_TRANSLATED = {
    ".": "(?s:.)",  # also a line end
    "^": "(?m:^)",  # at each line
    "$": "(?m:$)",
    r"\z": r"\Z",
    r"\w": _WORD,
    r"\W": f"[^{_WORD_CHARACTERS}]",
    r"\b": rf"(?:(?<={_WORD})(?!{_WORD})|(?<!{_WORD})(?={_WORD}))",
    r"\B": rf"(?:(?<={_WORD})(?={_WORD})|(?<!{_WORD})(?!{_WORD}))",
}
_TRANSLATED_IN_SET = {r"\w": _WORD_CHARACTERS}
_TOKEN = regex.compile(
    r"""(?x)
    \\ [pP] \{ \^? [A-Za-z_]+ \} | \\ u [0-9A-Fa-f]{4} | \\ x [0-7] [0-9A-Fa-f] | \\ .
    | \( \? (?: <? [=!] | [:>] | i: | i\) ) | \( \?
    | \{ [0-9]* ,? [0-9]* \} [+?]? | [*+?] [+?]? | \[\^ | \[: | && | .
    """,
    regex.DOTALL,
)
_SAME_ESCAPES = frozenset("sSdDnrtfvA")  # and escapes of characters that are neither letters nor digits


def translate(pattern: str) -> str:
    """Return the regular expression that matches for the module regex what `pattern` matches for Oniguruma.

    Raises:
        InputError: the pattern has a part that may match something else here; the message names it.
    """
    parts, in_set = [], False
    for token in _TOKEN.findall(pattern):
        if _differs(token, in_set):
            raise InputError(f"its pattern {pattern!r:.100} has {token}, which may match something else here")
        parts.append((_TRANSLATED_IN_SET if in_set else _TRANSLATED).get(token, token))
        if token in ("[", "[^"):
            in_set = True
        elif token == "]":
            in_set = False
    # One character that stands for several letters, as in "straße", matches them in Oniguruma.
    if "(?i" in pattern and (
        fold := next((fold for fold in _long_folds() if fold in pattern.casefold()), "")
    ):
        raise InputError(
            f"its pattern {pattern!r:.100} has {fold} in any case, which may match something else here"
        )
    return "".join(parts)


def _differs(token: str, in_set: bool) -> bool:
    if in_set and token in ("[", "[:", "[^", "&&", r"\W", r"\b", r"\B", r"\A", r"\z"):
        return True
    if in_set and len(token) > 1 and token[0] not in "\\":
        return False
    if token[:2] in (r"\p", r"\P"):
        return not _is_known_property(token[3:-1].removeprefix("^")) or len(token) < 4
    if token.startswith("\\"):
        same = len(token) > 2 or token[1] in _SAME_ESCAPES or not token[1].isalnum()
        return not same and token not in _TRANSLATED
    if token.startswith("{") and len(token) > 1:
        return token == "{}" or token[-1] == "+" or (token[-1] == "?" and "," not in token)
    return token == "(?"


def _is_known_property(name: str) -> bool:
    """Return whether a name is that of a general category, such as Lu, or of a script, such as Han."""
    if regex.fullmatch("[LMNPSZC][a-z&]?", name):
        return True
    try:
        regex.compile(rf"\p{{Script={name}}}")
    except regex.error:
        return False
    return True


def _long_folds() -> set[str]:
    folds = {chr(code).casefold() for code in range(0x10000)}  # there are none above
    return {fold for fold in folds if len(fold) > 1}


@cache
def matches_everything(pattern: str) -> bool:
    """Return whether a regular expression certainly leaves no text between its matches, and has no empty match.

    It does if some of its alternatives look at nothing around them, and match each single character.
    """
    alternatives = _alternatives(pattern)
    plain = [
        part for part in alternatives if not regex.search(r"\(\?<?[=!]|\\[bBAZzG0-9]|[$^](?<!\[\^)", part)
    ]
    try:
        if any(regex.fullmatch(part, "") for part in alternatives):
            return False
        matcher = regex.compile("|".join(f"(?:{part})" for part in plain))
    except regex.error:
        return False
    probe = "a1 !\n\té中²'s \r\n  "
    if not plain or any(not match.group() for match in regex.finditer(pattern, probe)):
        return False
    characters = map(chr, chain(range(0xD800), range(0xE000, sys.maxunicode + 1)))
    return all(map(matcher.fullmatch, characters))


def _alternatives(pattern: str) -> list[str]:
    """Return the alternatives of a regular expression at its top level."""
    parts, depth, in_set = [""], 0, False
    for token in _TOKEN.findall(pattern):
        if token == "|" and not depth and not in_set:
            parts.append("")
            continue
        parts[-1] += token
        if in_set:
            in_set = token != "]"
        elif token.startswith("["):
            in_set = True
        else:
            depth += token.startswith("(") - (token == ")") - (token == "(?i)")
    return parts
