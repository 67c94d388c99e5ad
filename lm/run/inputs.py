"""The files that a run reads, and the tokenizer that they were encoded with."""

from dataclasses import dataclass
from pathlib import Path

from lm.data.sidecar import token_facts
from tokenizer import Tokenizer
from tokenizer.errors import InputError


@dataclass(frozen=True)
class Inputs:
    """The files that a run reads."""

    train: tuple[Path, ...]
    """Token files to train on."""
    val: Path
    """Token file to evaluate on."""
    weights: tuple[float, ...] = ()
    """Share of the windows from each training file. If empty: in proportion to the files' sizes."""
    init_from: Path | None = None
    """Checkpoint whose weights the run starts from."""
    tokenizer: Path | None = None
    """Folder of the tokenizer, for token files that name none."""


def file_tokenizer(tokens_path: Path) -> Tokenizer | None:
    """Return the tokenizer that a token file was encoded with, or None if its sidecar names none.

    Raises:
        InputError: the tokenizer is missing or has changed.
    """
    facts = token_facts(tokens_path)
    if facts is None:
        return None
    tokenizer = Tokenizer.load(facts.tokenizer)
    if tokenizer.sha256 != facts.tokenizer_sha256:
        raise InputError(
            f"{facts.tokenizer}: is not the tokenizer that {tokens_path} was encoded with; encode the text again"
        )
    return tokenizer


def run_tokenizer(inputs: Inputs) -> Tokenizer | None:
    """Return the tokenizer of a run: the given one, or the one that its token files name."""
    if inputs.tokenizer is None:
        return file_tokenizer(inputs.train[0])
    tokenizer = Tokenizer.load(inputs.tokenizer)
    refuse_other_tokenizer(inputs.train[0], tokenizer.sha256, str(inputs.tokenizer))
    return tokenizer


def refuse_other_tokenizer(tokens_path: Path, sha256: str | None, other: str) -> None:
    """Refuse a token file that was encoded with another tokenizer than `other`.

    Args:
        sha256: Hash of the other tokenizer. If None, or if the token file names no tokenizer, nothing is refused.
        other: What the other tokenizer belongs to, for the error.

    Raises:
        InputError: the tokenizers differ.
    """
    facts = token_facts(tokens_path)
    if facts and sha256 is not None and facts.tokenizer_sha256 != sha256:
        raise InputError(
            f"{tokens_path}: was encoded with another tokenizer than {other}; encode all texts with one tokenizer"
        )
