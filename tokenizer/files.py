"""Reading and writing tokenizer files: GPT-2's vocab.json and merges.txt."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tokenizer.errors import InputError
from tokenizer.publish import published


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
    spelled = read_json(path)
    if not isinstance(spelled, dict) or not all(type(i) is int and i >= 0 for i in spelled.values()):
        raise InputError(f"{path} must map tokens to ids that are whole numbers; is it a GPT-2 vocab.json?")
    vocab = {i: from_unicode(token) for token, i in spelled.items()}
    if len(vocab) < len(spelled):
        raise InputError(f"{path} gives the same id to two tokens; every id must be unique")
    return vocab


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


def read_pretokenizer(path: str | Path) -> tuple[list[str], str, list[str]]:
    """Read a `pretokenizer.json`: (special tokens, pattern, visible tokens).

    Raises:
        InputError: the file is missing or malformed.
    """
    content = read_json(path)
    match {"visible_tokens": [], **content} if isinstance(content, dict) else None:
        case {"special_tokens": list(special), "pattern": str(pattern), "visible_tokens": list(visible)} if (
            all(isinstance(token, str) for token in special + visible)
        ):
            return special, pattern, visible
    raise InputError(f'{path} must hold {{"special_tokens": [texts], "pattern": text}}')


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing or is no JSON.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON: {error}") from None


def read_text(path: str | Path) -> str:
    """Read a UTF-8 text file with its line ends as they are.

    Raises:
        InputError: the file is missing or is not UTF-8.
    """
    try:
        return Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(not_utf8(path, error.start)) from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def not_utf8(path: str | Path, offset: int) -> str:
    """Return the message for a file that is not UTF-8 at byte `offset`."""
    return (
        f"{path} is not UTF-8 at byte {offset}; convert it first, for example with: iconv -f LATIN1 -t UTF-8"
    )


def write_text(path: Path, text: str) -> None:
    """Write a text file, in full or not at all."""
    with published(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
