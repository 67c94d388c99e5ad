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
    """What `lm.data.windows.open_corpus` mixes by."""
    init_from: Path | None = None
    """Checkpoint whose weights the run starts from."""
    tokenizer: Path | None = None
    """Tokenizer of token files that name none."""


def file_tokenizer(tokens_path: Path) -> Tokenizer | None:
    """The tokenizer that a token file was encoded with, where its sidecar names one.

    Raises:
        InputError: the tokenizer is gone, or is another one by now.
    """
    facts = token_facts(tokens_path)
    if facts is None:
        return None
    tokenizer = Tokenizer.load(facts.tokenizer)
    if tokenizer.sha256 != facts.tokenizer_sha256:
        raise InputError(f"{facts.tokenizer}: not what {tokens_path} was encoded with; encode the text again")
    return tokenizer


def run_tokenizer(inputs: Inputs) -> Tokenizer | None:
    """The tokenizer of a run's token files: what they name, or what is named for them."""
    if inputs.tokenizer is None:
        return file_tokenizer(inputs.train[0])
    tokenizer = Tokenizer.load(inputs.tokenizer)
    refuse_other_tokenizer(inputs.train[0], tokenizer.sha256, str(inputs.tokenizer))
    return tokenizer


def refuse_other_tokenizer(tokens_path: Path, sha256: str | None, other: str) -> None:
    """Refuse a token file that is known to be of another tokenizer than something else, known too.

    Raises:
        InputError: names both.
    """
    facts = token_facts(tokens_path)
    if facts and sha256 is not None and facts.tokenizer_sha256 != sha256:
        raise InputError(
            f"{tokens_path}: was encoded with another tokenizer than {other}; encode the text with the same"
        )
