"""The tokens that begin and end a text. Each model has its own, and its run records them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizer import END_OF_TEXT, InputError, Tokenizer

# The names of this token in various tokenizers.
_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "<|eot|>", "<|eot_id|>")
_NO_END = ("<|mask|>", "<mask>", "[MASK]", "<pad>", "<|pad|>", "[PAD]", "<unk>", "[UNK]")


@dataclass(frozen=True)
class Ends:
    """Ids of the tokens that begin and end a text, under their names in config.json."""

    bos_token_id: int | None = None
    """Begins a text."""
    eos_token_id: int | list[int] | None = None
    """Ends a text. If it is a list, each of its tokens does."""

    @property
    def stop(self) -> tuple[int, ...]:
        """The ids that end a text."""
        if self.eos_token_id is None:
            return ()
        return (self.eos_token_id,) if isinstance(self.eos_token_id, int) else tuple(self.eos_token_id)

    @property
    def start(self) -> int | None:
        """The id before a text: the one that begins it, or the one that ends the previous text; None without either."""
        return self.bos_token_id if self.bos_token_id is not None else next(iter(self.stop), None)

    def stop_ids(self, stop_token: str | None, tokenizer: Tokenizer | None) -> tuple[int, ...]:
        """Return the ids to stop at: the id of `stop_token`, no id if that is empty, or `stop` if it is None.

        Raises:
            InputError: the tokenizer has no such special token, or there is no tokenizer.
        """
        if stop_token is None:
            return self.stop
        special = tokenizer.special_tokens if tokenizer else {}
        if stop_token and stop_token not in special:
            known = " ".join(special) or ("it has none" if tokenizer else "without a tokenizer it has none")
            raise InputError(f"--stop-token {stop_token!r} is not one of the model's special tokens: {known}")
        return (special[stop_token],) if stop_token else ()

    def begin(self, token_ids: list[int], tokenizer: Tokenizer | None = None) -> list[int]:
        """Return the ids that a model continues: the prompt's, or `start` if the prompt is empty.

        If the tokenizer has a `bos_token`, and the model's texts begin with it, the prompt of a text does, too.

        Raises:
            InputError: the prompt is empty, and no token begins or ends the model's texts.
        """
        bos = tokenizer.special_tokens.get(tokenizer.bos_token or "") if tokenizer else None
        if bos is not None and bos == self.bos_token_id:
            return [bos, *token_ids]
        if token_ids:
            return token_ids
        if self.start is None:
            raise InputError(
                "the prompt is empty, and the model has no token that begins or ends a text; give a prompt"
            )
        return [self.start]


def read_ends(values: Mapping[str, Any], vocab_size: int, where: str) -> Ends:
    """Return the ends that a config.json or state.json names, if any.

    Raises:
        InputError: it names something that is not a token id of the model.
    """
    for name in ("bos_token_id", "eos_token_id"):
        value = values.get(name)
        ids = value if isinstance(value, list) and value and name == "eos_token_id" else [value]
        if value is not None and not all(type(i) is int and 0 <= i < vocab_size for i in ids):
            raise InputError(
                f"{where}: {name} is {value!r}, and the model has the token ids 0 to {vocab_size - 1}; "
                "correct the file"
            )
    return Ends(values.get("bos_token_id"), values.get("eos_token_id"))


def choose_ends(tokenizer: Tokenizer | None, known: Ends | None = None) -> Ends:
    """Return the known ends, or the tokenizer's if no end is known.

    A tokenizer's end is its special token with a usual name for an end. If none has such a name, it is the only special
    token that has no usual name for something else. The tokenizer's end also begins the next text.

    >>> choose_ends(Tokenizer({i: bytes([i]) for i in range(256)}, [], ["<s>", "</s>"])).stop
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
