"""Show how a text is tokenized."""

from tokenizer.tokenizer import Tokenizer

_COLOURS = (42, 43, 44, 45, 46)  # backgrounds of ANSI terminals


def tokens_of(tokenizer: Tokenizer, text: str) -> list[tuple[int, bytes]]:
    """Return the tokens of `text`: (id, bytes)."""
    return [(i, tokenizer.vocab[i]) for i in tokenizer.encode(text)]


def printable(token: bytes) -> str:
    """Return a token as text on one line: line ends as ⏎, bytes that are not UTF-8 by themselves in hexadecimal."""
    shown = token.decode(errors="backslashreplace").replace("\n", "⏎")
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in shown)


def coloured(tokenizer: Tokenizer, text: str) -> str:
    """Return `text` with its tokens in alternating colours, each followed by its id, for a terminal."""
    parts = []
    for number, (i, token) in enumerate(tokens_of(tokenizer, text)):
        colour = _COLOURS[number % len(_COLOURS)]
        line_end = "\n" if token.endswith(b"\n") else ""
        parts.append(f"\033[30;{colour}m{printable(token)}\033[0m\033[2m{i}\033[0m{line_end}")
    return "".join(parts)
