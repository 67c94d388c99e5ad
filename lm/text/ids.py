"""Token ids as a user writes them."""

from collections.abc import Iterable
from typing import Any

from tokenizer.errors import InputError


def read_ids(text: str) -> list[int]:
    """Return the token ids in a text such as "1 2 3" or "[1, 2, 3]".

    Raises:
        InputError: the text has something that is not a whole number.

    >>> read_ids("1 2 3"), read_ids("[1, 2, 3]"), read_ids("")
    ([1, 2, 3], [1, 2, 3], [])
    """
    parts = text.strip().removeprefix("[").removesuffix("]").replace(",", " ").split()
    for part in parts:
        if not part.isdecimal():
            raise InputError(f"{part!a:.40} is not a token id; give whole numbers, such as 1 2 3")
    return [int(part) for part in parts]


def show_ids(token_ids: Iterable[Any]) -> str:
    """Return the text that `read_ids` reads: each id, with a space between two."""
    return " ".join(map(str, token_ids))
