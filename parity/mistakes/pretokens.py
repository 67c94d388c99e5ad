"""Mistakes of pre-tokenization, which training and encoding share."""

import re
from functools import partial

import regex

from parity.mistakes.mistake import mistake
from parity.oracle.bpe import pretokenize

_pieces = partial(
    mistake,
    source="Radford et al., 2019, section 2.2; the course's assignment 1, section 2.4",
    replaces="pretokenize",
    formula=r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
    pitfall="Pre-tokens of another pattern",
)


@_pieces("pre-tokens: none")
def _(text: str) -> list[str]:
    """The text is not pre-tokenized. Merges cross from word to word."""
    return [text]


@_pieces("pre-tokens: cut at white space, which is dropped")
def _(text: str) -> list[str]:
    """text.split() cuts at white space and drops it. No token holds a space, and punctuation stays with its word."""
    return text.split()


@_pieces("pre-tokens: cut before spaces only")
def _(text: str) -> list[str]:
    """A word keeps the space before it, but punctuation, digits and newlines stay with the word. GPT-2's pattern
    cuts there."""
    return re.findall(r" [^ ]*|[^ ]+", text)


@_pieces("pre-tokens: spaces are words of their own")
def _(text: str) -> list[str]:
    """A space is a piece of its own instead of the beginning of the next word. Tokens such as b" the" never arise."""
    return regex.findall(r"'(?:[sdmt]|ll|ve|re)|\p{L}+|\p{N}+|[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", text)


@_pieces("pre-tokens: spaces are dropped")
def _(text: str) -> list[str]:
    """The pattern matches no white space. Spaces and newlines vanish from the text."""
    return regex.findall(r"'(?:[sdmt]|ll|ve|re)|\p{L}+|\p{N}+|[^\s\p{L}\p{N}]+", text)


@_pieces("pre-tokens: runs of spaces swallow the last one")
def _(text: str) -> list[str]:
    r"""The alternative \s+(?!\S) is missing. In a run of spaces the last one then does not begin the next word."""
    return regex.findall(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+", text)


@_pieces("pre-tokens: letters and digits together")
def _(text: str) -> list[str]:
    r"""The pattern takes \w+ for both \p{L}+ and \p{N}+. Letters, digits and underscores then form one piece."""
    return regex.findall(r"'(?:[sdmt]|ll|ve|re)| ?\w+| ?[^\s\w]+|\s+(?!\S)|\s+", text)


@_pieces("pre-tokens: letters of ASCII only")
def _(text: str) -> list[str]:
    r"""The pattern takes [A-Za-z] and [0-9] for \p{L} and \p{N}. Words with other letters are cut."""
    return regex.findall(r"'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", text)


@_pieces("pre-tokens: contractions are not cut")
def _(text: str) -> list[str]:
    """The pattern lacks 's, 't, 'll and the other contractions. The apostrophe is cut from the letters after it."""
    return regex.findall(r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", text)


@_pieces("pre-tokens: lower case")
def _(text: str) -> list[str]:
    """The text is made lower case. Capital letters are lost."""
    return pretokenize(text.lower())
