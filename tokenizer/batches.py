"""Encode several texts at once, as one long text."""

from collections.abc import Callable
from functools import cached_property
from io import BytesIO
from itertools import pairwise

import numpy as np

from tokenizer.errors import InputError
from tokenizer.pretokenize import Pretokenizer
from tokenizer.short_texts import SHORT
from tokenizer.streams import StreamEncoder

SEPARATOR = (
    "\U0010ffff"  # stands between joined texts; Unicode keeps it free of meaning, so few texts hold it
)


class BatchEncoder:
    """Joins texts with `SEPARATOR`, one more special token, and cuts their ids at it.

    Args:
        pretokenizer: the pattern and the special tokens.
        encode: encodes one text. It takes the texts if they are short, or hold the separator.
        streams: returns an encoder for the joined texts, given a pretokenizer with the separator. They have changed
            before, so it has no normalization.
        separator_id: the id of the separator there.
    """

    def __init__(
        self,
        pretokenizer: Pretokenizer,
        encode: Callable[[str], list[int]],
        streams: Callable[[Pretokenizer], StreamEncoder],
        separator_id: int,
    ) -> None:
        self._pretokenizer, self._encode, self._streams = pretokenizer, encode, streams
        self._separator_id = separator_id

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text.

        Raises:
            InputError: a text holds a lone surrogate; the error says which text, counted from 0.
        """
        found: list[list[int]] = []
        try:
            if (joined := self._joined(texts)) is not None:
                return self._encode_joined(joined)
            found.extend(map(self._encode, texts))
        except InputError as error:
            raise InputError(f"text {len(found)}: {error}") from None
        return found

    def _joined(self, texts: list[str]) -> bytes | None:
        """Return the texts with `SEPARATOR` between them, or None if a loop over the texts is faster or must be."""
        if sum(map(len, texts)) <= SHORT:
            return None
        if self._pretokenizer.normalizer:
            texts = [self._pretokenizer.normalizer.apply(text) for text in texts]
        joined = SEPARATOR.join(texts)
        if joined.count(SEPARATOR) != len(texts) - 1 or any(
            SEPARATOR in token for token in self._pretokenizer.special_tokens
        ):
            return None
        try:
            return joined.encode()
        except UnicodeEncodeError:
            return None  # the loop says which text is wrong

    def _encode_joined(self, joined: bytes) -> list[list[int]]:
        """Return the ids between the separators."""
        found = np.concatenate([ids for ids, _ in self._stream.encode(BytesIO(joined).read, check=False)])
        places = (found == self._separator_id).nonzero()[0].tolist()
        ids = found.tolist()
        return [ids[before + 1 : after] for before, after in pairwise([-1, *places, len(ids)])]

    @cached_property
    def _stream(self) -> StreamEncoder:
        special_tokens = [*self._pretokenizer.special_tokens, SEPARATOR]
        return self._streams(Pretokenizer(self._pretokenizer.pattern, special_tokens))
