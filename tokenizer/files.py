"""Reading and writing tokenizer files: GPT-2's vocab.json and merges.txt."""

import codecs
import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tokenizer.errors import InputError
from tokenizer.pipes import is_pipe, read_pipe
from tokenizer.publish import published
from tokenizer.strict_json import parse_json

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


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing or is no JSON.
    """
    return parse_json(read_text(path), path)


def read_text(path: str | Path) -> str:
    """Read a UTF-8 text file with its line ends as they are, without the byte-order mark that some editors write.

    Raises:
        InputError: the file is missing or is not UTF-8.
    """
    try:
        data = read_bytes(path)
        refuse_utf16(data, path)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(not_utf8(path, error.start)) from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def read_bytes(path: str | Path) -> bytes:
    """Read a file, a pipe, or standard input if `path` is -; what gzip has compressed is decompressed.

    Raises:
        InputError: `path` is a device, a damaged .gz file, or no path.
        OSError: it cannot be read.
    """
    data = b"".join(read_pipe(str(path))) if is_pipe(str(path)) else Path(path).read_bytes()
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is a damaged .gz file: {error}; get it again") from None


def not_utf8(path: str | Path, offset: int) -> str:
    """Return the message for a file that is not UTF-8 at byte `offset`."""
    return (
        f"{path} is not UTF-8 at byte {offset}; convert it first, for example with: iconv -f LATIN1 -t UTF-8"
    )


def refuse_utf16(data: bytes, path: str | Path) -> None:
    """Refuse a file whose first bytes are those of UTF-16 or UTF-32, with a byte-order mark or without.

    Without one, every other byte of a text in most alphabets is zero.
    """
    start = data[:1000]
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if start.startswith(mark)), None)
    even, odd = start[::2], start[1::2]
    for name, zeros, others in (("UTF-16LE", odd, even), ("UTF-16BE", even, odd)):
        if not encoding and len(start) >= 8 and zeros.count(0) > 0.8 * len(zeros) > 8 * others.count(0):
            encoding = name
    if encoding:
        raise InputError(
            f"{path} is {encoding}, not UTF-8; convert it first, for example with: iconv -f {encoding} -t UTF-8"
        )


_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def write_text(path: Path, text: str) -> None:
    """Write a text file, in full or not at all."""
    with published(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
