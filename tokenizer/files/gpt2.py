"""Read and write GPT-2's tokenizer files: vocab.json and merges.txt."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizer.errors import InputError
from tokenizer.files.reading import read_json, read_text
from tokenizer.normalizer import Normalization
from tokenizer.pretokenize import Pretokenizer

MAX_IDS = 1 << 24  # more than any vocabulary has; a model has a row for each id


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
    """Return the bytes that GPT-2 spells `text`. Other text (a special token) becomes UTF-8."""
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
        InputError: the file is missing, is not JSON, or is not such a mapping.
    """
    return parse_vocab(read_json(path), path)


def parse_vocab(spelled: Any, where: str | Path) -> dict[int, bytes]:
    """Return id -> bytes of {spelled token: id}.

    Raises:
        InputError: the value is not such a mapping, or one id stands for two tokens.
    """
    if not isinstance(spelled, dict):
        raise InputError(f"{where} must map tokens to ids; is it a GPT-2 vocab.json?")
    vocab: dict[int, bytes] = {}
    for text, i in spelled.items():
        token = from_unicode(text)
        check_id(i, f"{where}: token {text!a}")
        if not token:
            raise InputError(f"{where}: token {i} is empty; copy the file again from its source")
        if vocab.setdefault(i, token) != token:
            raise InputError(f"{where} gives the same id {i} to two tokens; every id must be unique")
    return vocab


def check_id(i: object, what: str) -> None:
    """Refuse a value that is not a token id."""
    if type(i) is not int or not 0 <= i < MAX_IDS:
        raise InputError(f"{what} has the id {i!r:.40}; an id is a whole number from 0 to {MAX_IDS - 1:,}")


def read_merges(path: str | Path) -> list[tuple[bytes, bytes]]:
    """Read a `merges.txt`: one pair of spelled tokens per line, with or without the first line `#version: ...`.

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
    defaults = {
        "visible_tokens": [],
        "whole_pieces": False,
        "normalization": {},
        "bos_token": None,
        "sha256": None,
    }
    match defaults | content if isinstance(content, dict) else None:
        case {
            "special_tokens": list(special),
            "pattern": str() | list() as pattern,
            "visible_tokens": list(visible),
            "whole_pieces": bool(whole_pieces),
            "normalization": dict(normalization),
            "bos_token": str() | None as bos_token,
            "sha256": str() | None as sha256,
        } if all(isinstance(text, str) for text in [*special, *visible, *pattern]):
            return {
                "special_tokens": special,
                "pattern": pattern,
                "visible_tokens": visible,
                "whole_pieces": whole_pieces,
                "normalization": Normalization.from_json(normalization),
                "bos_token": bos_token,
                "sha256": sha256,
            }
    raise InputError(f'{path} must hold {{"special_tokens": [texts], "pattern": text}}')


_GPT2_CLASSES = ("GPT2Tokenizer", "RobertaTokenizer", "BartTokenizer")


def refuse_other_class(settings: Any, path: str | Path) -> None:
    """Refuse GPT-2's files if the `tokenizer_config.json` beside them says that text is not cut as GPT-2 cuts it."""
    name = settings.get("tokenizer_class") if isinstance(settings, dict) else settings
    if name is not None and str(name).removesuffix("Fast") not in _GPT2_CLASSES:
        raise InputError(
            f"{path} says that the tokenizer is {name!s:.40}, not GPT-2's; save it with a tokenizer.json, which says "
            "how it cuts text"
        )
    if isinstance(settings, dict) and settings.get("add_prefix_space"):
        raise InputError(f"{path} asks for a space in front of the text, which is not supported")


def refuse_mixture(
    vocab: Mapping[int, bytes], merges: Sequence[tuple[bytes, bytes]], pretokenizer: Pretokenizer
) -> None:
    """Refuse a vocabulary and merges that training cannot have made together.

    Raises:
        InputError: no merge makes a token that looks learned, or a few merges are not in the order of their tokens.
    """
    joined = [left + right for left, right in merges]
    made = {*joined, *(special.encode() for special in pretokenizer.special_tokens)}
    for i, token in vocab.items():
        # Training learns no token that the pattern cuts. Such a token was added: a special token of another program.
        if (
            len(token) > 1
            and token not in made
            and len(pretokenizer.split(token.decode(errors="ignore"))) < 2
        ):
            raise InputError(
                f"vocab.json has token {i} ({token!r:.40}), which no line of merges.txt makes; copy both "
                "files again from their source, or name it as a special token if it is one"
            )
    ids = {token: i for i, token in vocab.items()}
    learned = [
        ids[token]
        for token in dict.fromkeys(joined)
        if token.decode(errors="ignore") not in pretokenizer.special_set
    ]
    falls = [rank for rank, (one, next_one) in enumerate(pairwise(learned)) if one > next_one]
    # Some programs number tokens in an order of their own. Then about half of all merges are out of order.
    if 0 < len(falls) <= max(2, len(learned) // 100):
        token = vocab[learned[falls[0]]]
        raise InputError(
            f"merges.txt makes {token!r:.40} before a token with a smaller id in vocab.json, unlike nearly all "
            "others: lines were exchanged; copy both files again from their source"
        )
