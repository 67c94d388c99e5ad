"""Sidecars: facts about a text or token file, in FILE.json beside it."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.files import read_json
from tokenizer.errors import InputError


def sidecar_path(path: Path) -> Path:
    """Return where the facts about a file are written: its path with .json appended."""
    return Path(f"{path}.json")


def find_beside(path: Path, suffix: str) -> Path:
    """Return the path with a suffix appended, where the file that belongs to `path` lies.

    If `path` is a link, and no such file lies beside it, the file lies beside the link's target.

    Raises:
        InputError: the path has a zero byte.
    """
    if "\0" in str(path):
        raise InputError(f"{str(path)!r}: a path cannot have a zero byte; give the name of a file")
    near = Path(f"{path}{suffix}")
    return near if near.exists() else Path(os.path.realpath(path) + suffix)


def relative_path(folder: Path, path: Path) -> str:
    """Return a name of the path relative to a folder, which is still right after both have moved together.

    `..` leads up from the folder's real place, even if `folder` contains links.
    """
    targets = [os.path.realpath(path)]
    if ".." not in path.parts:  # abspath cuts `link/..` out, which may be another place
        targets.append(os.path.abspath(path))
    try:
        names = [os.path.relpath(target, os.path.realpath(folder)) for target in targets]
    except ValueError:  # the path is on another drive of Windows
        return targets[0]
    return Path(min(names, key=lambda name: Path(name).parts.count(".."))).as_posix()


@dataclass(frozen=True)
class TokenFacts:
    """What `lm tokenizer encode` recorded about a token file."""

    tokenizer: Path
    """Folder of the tokenizer."""
    tokenizer_sha256: str
    tokens: int | None
    bytes: int | None
    """Number of bytes of the text; None for pairs."""
    nats: float | None
    """The text's information, if known."""
    sha256: str | None
    """The file's fingerprint (`lm.data.token_files.fingerprint`); None if an earlier version wrote the file."""


def token_facts(path: Path) -> TokenFacts | None:
    """Return the facts beside a token file; None if there are none, or if another program wrote the JSON file.

    Raises:
        InputError: the facts are damaged.
    """
    sidecar = find_beside(path, ".json")
    if not sidecar.is_file():
        return None
    mend = f"make {path.name} again, or delete the file"
    facts = read_json(sidecar, mend)
    if not isinstance(facts, dict) or "tokenizer_sha256" not in facts:
        return None
    for name, fits in _FITS.items():
        if not fits(facts.get(name)):
            raise InputError(f"{sidecar}: {name} is {facts.get(name)!r:.80}, which lm never writes; {mend}")
    # `..` leads up from the sidecar's real place.
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
    """Return the information of a text file, if `lm stories` recorded it and the text has not changed since.

    Args:
        sha256: Hashes a file.
    """
    sidecar = find_beside(path, ".json")
    try:
        facts = read_json(sidecar, "") if sidecar.is_file() and path.is_file() else None
    except InputError:  # only the entropy floor depends on it
        return None
    if not isinstance(facts, dict) or not is_information(facts.get("nats")):
        return None
    return facts["nats"] if facts.get("sha256") == sha256(path) else None


def is_information(value: Any) -> bool:
    """Whether a value can be a number of nats."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
