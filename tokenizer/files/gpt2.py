"""Reading and writing tokenizer files: GPT-2's vocab.json and merges.txt."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tokenizer.errors import InputError
from tokenizer.files.reading import read_json, read_text

MAX_IDS = 1 << 24  # no vocabulary is as large, and a model has a row for each id


@cache
def byte_to_unicode() -> dict[int, str]:
    """Return GPT-2's printable character for each byte, so that JSON and text files can hold any bytes.

    Printable bytes stand for themselves; the other 68 take the characters from U+0100 on. Source:
    `bytes_to_unicode` in GPT-2's encoder.py.

    >>> byte_to_unicode()[ord("a")], byte_to_unicode()[ord(" ")]
    ('a', 'Ġ')
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def to_unicode(token: bytes) -> str:
    """Return GPT-2's spelling of `token`: ``to_unicode(b" the") == "Ġthe"``."""
    table = byte_to_unicode()
    return "".join([table[byte] for byte in token])


@cache
def _unicode_to_byte() -> dict[str, int]:
    return {char: byte for byte, char in byte_to_unicode().items()}


def from_unicode(text: str) -> bytes:
    """Return the bytes that GPT-2 spells `text`; text that is no such spelling (a special token) is UTF-8."""
    table = _unicode_to_byte()
    try:
        return bytes([table[char] for char in text])
    except KeyError:
        return text.encode()


def format_vocab(vocab: Mapping[int, bytes]) -> str:
    """Return the text of a `vocab.json`."""
    spelled: dict[str, int] = {}
    for i, token in sorted(vocab.items()):
        spelled[to_unicode(token)] = i
    return json.dumps(spelled, ensure_ascii=False) + "\n"


def format_merges(merges: Sequence[tuple[bytes, bytes]]) -> str:
    """Return the text of a `merges.txt`."""
    lines = [f"{to_unicode(left)} {to_unicode(right)}\n" for left, right in merges]
    return "#version: 0.2\n" + "".join(lines)


def read_vocab(path: str | Path) -> dict[int, bytes]:
    """Read a `vocab.json`: {spelled token: id}.

    Raises:
        InputError: the file is missing, is no JSON, or is no such mapping.
    """
    return parse_vocab(read_json(path), path)


def parse_vocab(spelled: Any, where: str | Path) -> dict[int, bytes]:
    """Return id -> bytes of {spelled token: id}.

    Raises:
        InputError: it is no such mapping, or one id stands for two tokens.
    """
    if not isinstance(spelled, dict):
        raise InputError(f"{where} must map tokens to ids; is it a GPT-2 vocab.json?")
    vocab: dict[int, bytes] = {}
    for text, i in spelled.items():
        token = from_unicode(text)
        check_id(i, f"{where}: token {text!a}")
        if not token:
            raise InputError(f"{where}: token {i} is empty; take the file from where it was made again")
        if vocab.setdefault(i, token) != token:
            raise InputError(f"{where} gives the same id {i} to two tokens; every id must be unique")
    return vocab


def check_id(i: object, what: str) -> None:
    """Refuse what is no token id."""
    if type(i) is not int or not 0 <= i < MAX_IDS:
        raise InputError(f"{what} has the id {i!r:.40}; an id is a whole number from 0 to {MAX_IDS - 1:,}")


def read_merges(path: str | Path) -> list[tuple[bytes, bytes]]:
    """Read a `merges.txt`: a pair of spelled tokens a line, with or without the first line `#version: ...`.

    Raises:
        InputError: the file is missing, or a line is not two tokens.
    """
    merges = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        line = line.rstrip("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise InputError(
                f"{path}, line {number}: expected two tokens and a space between, found {line!r}"
            )
        merges.append((from_unicode(pair[0]), from_unicode(pair[1])))
    return merges


def read_pretokenizer(path: str | Path) -> dict[str, Any]:
    """Read a `pretokenizer.json`: arguments of a `Tokenizer`, and the tokenizer's sha256 or None.

    Raises:
        InputError: the file is missing or malformed.
    """
    content = read_json(path)
    defaults = {"visible_tokens": [], "whole_pieces": False, "sha256": None}
    match defaults | content if isinstance(content, dict) else None:
        case {
            "special_tokens": list(special),
            "pattern": str() | list() as pattern,
            "visible_tokens": list(visible),
            "whole_pieces": bool(whole_pieces),
            "sha256": str() | None as sha256,
        } if all(isinstance(text, str) for text in [*special, *visible, *pattern]):
            return {
                "special_tokens": special,
                "pattern": pattern,
                "visible_tokens": visible,
                "whole_pieces": whole_pieces,
                "sha256": sha256,
            }
    raise InputError(f'{path} must hold {{"special_tokens": [texts], "pattern": text}}')


_GPT2_CLASSES = ("GPT2Tokenizer", "RobertaTokenizer", "BartTokenizer")


def refuse_other_class(settings: Any, path: str | Path) -> None:
    """Refuse GPT-2's files beside a `tokenizer_config.json` by which they are not cut as GPT-2 cuts text."""
    name = settings.get("tokenizer_class") if isinstance(settings, dict) else settings
    if name is not None and str(name).removesuffix("Fast") not in _GPT2_CLASSES:
        raise InputError(
            f"{path} says that the tokenizer is {name!s:.40}, not GPT-2's; save it with a tokenizer.json, which says "
            "how it cuts text"
        )
    if isinstance(settings, dict) and settings.get("add_prefix_space"):
        raise InputError(f"{path} asks for a space in front of the text, which is not supported")
