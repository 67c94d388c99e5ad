"""The tokens that begin and end a text: each model has its own, and its run keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenizer import END_OF_TEXT
from tokenizer.errors import InputError

if TYPE_CHECKING:
    from tokenizer import Tokenizer

# What other tokenizers call theirs.
_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "<|eot|>", "<|eot_id|>")
_NO_END = ("<|mask|>", "<mask>", "[MASK]", "<pad>", "<|pad|>", "[PAD]", "<unk>", "[UNK]")


@dataclass(frozen=True)
class Ends:
    """Ids of the tokens that begin and end a text, by the names that config.json gives them."""

    bos_token_id: int | None = None
    """Begins a text."""
    eos_token_id: int | list[int] | None = None
    """Ends a text; each of a list does."""

    @property
    def stop(self) -> tuple[int, ...]:
        """The ids that end a text."""
        if self.eos_token_id is None:
            return ()
        return (self.eos_token_id,) if isinstance(self.eos_token_id, int) else tuple(self.eos_token_id)

    @property
    def start(self) -> int | None:
        """The id that a text is read after: what begins it, or what ends the one before; None if there is neither."""
        return self.bos_token_id if self.bos_token_id is not None else next(iter(self.stop), None)

    def stop_ids(self, stop_token: str | None, tokenizer: "Tokenizer") -> tuple[int, ...]:
        """The ids to stop at: these, or that of the special token a user names; none for an empty name.

        Raises:
            InputError: the tokenizer has no such special token.
        """
        if stop_token is None:
            return self.stop
        if stop_token and stop_token not in tokenizer.special_tokens:
            known = " ".join(tokenizer.special_tokens) or "it has none"
            raise InputError(f"--stop-token {stop_token!r} is not one of the model's special tokens: {known}")
        return (tokenizer.special_tokens[stop_token],) if stop_token else ()

    def begin(self, token_ids: list[int]) -> list[int]:
        """The ids that a model continues: those of a prompt, or what begins a new text if it has none.

        Raises:
            InputError: it has none, and neither does the model have a token that begins or ends a text.
        """
        if token_ids:
            return token_ids
        if self.start is None:
            raise InputError(
                "the prompt is empty, and the model has no token that begins or ends a text; give a prompt"
            )
        return [self.start]


def read_ends(values: Mapping[str, Any], vocab_size: int, where: str) -> Ends:
    """The ends in a config.json or state.json, as far as it names any.

    Raises:
        InputError: what it names is no token id of the model.
    """
    for name in ("bos_token_id", "eos_token_id"):
        value = values.get(name)
        ids = value if isinstance(value, list) and value and name == "eos_token_id" else [value]
        if value is not None and not all(type(i) is int and 0 <= i < vocab_size for i in ids):
            raise InputError(
                f"{where}: {name} is {value!r}, and the model has the token ids 0 to {vocab_size - 1}; mend the file"
            )
    return Ends(values.get("bos_token_id"), values.get("eos_token_id"))


def ends_of(tokenizer: "Tokenizer | None", known: Ends | None = None) -> Ends:
    """The ends that are known, or else those of a tokenizer.

    A tokenizer's end, which the next text begins after, is the first of its special tokens that has the name of one; or
    its only special token, unless that has the name of something else.

    >>> from tokenizer import Tokenizer
    >>> ends_of(Tokenizer({i: bytes([i]) for i in range(256)}, [], ["<s>", "</s>"])).stop
    (257,)
    """
    known = known or Ends()
    if known.stop or tokenizer is None:
        return known
    special = tokenizer.special_tokens
    others = [text for text in special if text not in _NO_END]
    named = [text for text in _NAMES if text in special] or (others if len(others) == 1 else [])
    end = special[named[0]] if named else None
    return Ends(end if known.bos_token_id is None else known.bos_token_id, end)
