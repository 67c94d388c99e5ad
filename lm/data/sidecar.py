"""What is known of a text or token file, in FILE.json beside it."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.files import read_json
from tokenizer.errors import InputError


def sidecar_path(path: Path) -> Path:
    """Where the facts about a file are written: beside it, with .json appended to its name."""
    return Path(f"{path}.json")


def beside(path: Path, suffix: str) -> Path:
    """The file that belongs to another and bears its name and a suffix.

    It lies beside the file. If the file is a link and nothing lies beside that, it lies beside what the link leads to.
    """
    if "\0" in str(path):
        raise InputError(f"{str(path)!r}: a path cannot have a zero byte")
    near = Path(f"{path}{suffix}")
    return near if near.exists() else Path(os.path.realpath(path) + suffix)


def seen_from(folder: Path, path: Path) -> str:
    """The path as a name that leads to it from a folder, also after both have moved together.

    `..` leads up from where the folder really is, whatever links have led to it.
    """
    targets = [os.path.realpath(path)]
    if ".." not in path.parts:  # by letters, `link/..` would be something else
        targets.append(os.path.abspath(path))
    try:
        names = [os.path.relpath(target, os.path.realpath(folder)) for target in targets]
    except ValueError:  # on another drive of Windows
        return targets[0]
    return Path(min(names, key=lambda name: Path(name).parts.count(".."))).as_posix()


@dataclass(frozen=True)
class TokenFacts:
    """What `lm tokenizer encode` recorded of a token file."""

    tokenizer: Path
    """Folder of the tokenizer."""
    tokenizer_sha256: str
    tokens: int | None
    bytes: int | None
    """Of the text; None of pairs."""
    nats: float | None
    """The text's information, if that is known."""
    sha256: str | None
    """The file's fingerprint (`lm.data.token_files.fingerprint`); None of a file that an earlier version wrote."""


def token_facts(path: Path) -> TokenFacts | None:
    """The facts beside a token file; None if there are none, or only a file of another program.

    Raises:
        InputError: they are damaged.
    """
    sidecar = beside(path, ".json")
    if not sidecar.is_file():
        return None
    mend = f"make {path.name} again, or delete the file"
    facts = read_json(sidecar, mend)
    if not isinstance(facts, dict) or "tokenizer_sha256" not in facts:
        return None
    for name, fits in _FITS.items():
        if not fits(facts.get(name)):
            raise InputError(f"{sidecar}: {name} is {facts.get(name)!r:.80}, which lm never writes; {mend}")
    # `..` leads up from where the sidecar really is.
    tokenizer = Path(os.path.realpath(sidecar)).parent / facts["tokenizer"]
    values: dict[str, Any] = {name: facts.get(name) for name in _FITS} | {"tokenizer": tokenizer}
    return TokenFacts(**values)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def _is_count(value: Any) -> bool:
    return value is None or (type(value) is int and 0 < value < 2**63)


_FITS: dict[str, Callable[[Any], bool]] = {
    "tokenizer": _is_text,
    "tokenizer_sha256": _is_text,
    "tokens": _is_count,
    "bytes": _is_count,
    "nats": lambda value: value is None or is_information(value),
    "sha256": lambda value: value is None or _is_text(value),
}


def text_nats(path: Path, sha256: Callable[[Path], str]) -> float | None:
    """The information of a text file, if `lm stories` has recorded it and the text is still the same."""
    sidecar = beside(path, ".json")
    try:
        facts = read_json(sidecar, "") if sidecar.is_file() and path.is_file() else None
    except InputError:  # the floor alone depends on it
        return None
    if not isinstance(facts, dict) or not is_information(facts.get("nats")):
        return None
    return facts["nats"] if facts.get("sha256") == sha256(path) else None


def is_information(value: Any) -> bool:
    """Whether a value can be a number of nats."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
