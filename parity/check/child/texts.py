"""Train tokenizers and use them. Bytes travel as Latin-1 text, since JSON has none."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .objects import handler

Pairs = Sequence[Sequence[str]]


def raised(error: BaseException) -> dict[str, str]:
    """Return what stands for a result: which error there was. A function that is not written is none."""
    if isinstance(error, NotImplementedError):
        raise error
    return {"raised": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


@handler
def train_bpe(module: Any, function: str, text: str, vocab_size: int, specials: list[str]) -> dict[str, Any]:
    """Return the tokens and merges of a text. The order of ids is left open, but not their range."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "corpus.txt")
        path.write_bytes(text.encode())
        try:
            vocab, merges = getattr(module, function)(path, vocab_size, list(specials))
        except Exception as error:
            return raised(error)
    return trained(vocab, merges)


def trained(vocab: Any, merges: Any) -> dict[str, Any]:
    """Return a vocabulary and its merges as JSON holds them."""
    if not isinstance(vocab, dict) or not all(isinstance(token, bytes) for token in vocab.values()):
        return {"type": f"vocab is {_kind(vocab)}, not dict[int, bytes]"}
    pairs = [tuple(pair) for pair in merges]
    if not all(len(pair) == 2 and all(isinstance(token, bytes) for token in pair) for pair in pairs):
        return {"type": f"merges are {_kind(merges)}, not list[tuple[bytes, bytes]]"}
    return {
        "merges": [[token.decode("latin-1") for token in pair] for pair in pairs],
        "tokens": sorted(token.decode("latin-1") for token in vocab.values()),
        "ids": "0, 1, 2 ..." if sorted(vocab) == list(range(len(vocab))) else "others",
    }


def _kind(value: Any) -> str:
    """Return a container's type with that of its first element."""
    if isinstance(value, dict) and value:
        key, item = next(iter(value.items()))
        return f"dict[{type(key).__name__}, {_kind(item)}]"
    if isinstance(value, (list, tuple)) and value:
        return f"{type(value).__name__}[{_kind(value[0])}]"
    return type(value).__name__


@handler
def tokenize(
    module: Any,
    function: str,
    vocab: list[Any],
    merges: Pairs,
    specials: list[str] | None,
    uses: list[list[Any]],
) -> list[Any]:
    """Make a tokenizer and return what each use gives: ["encode", text], ["decode", ids] or ["encode_iterable", texts].

    ["lazy", text, times] says whether the first id comes before half of many texts have been read.
    """
    of_bytes = {i: token.encode("latin-1") for i, token in vocab}
    pairs = [(left.encode("latin-1"), right.encode("latin-1")) for left, right in merges]
    try:
        tokenizer = getattr(module, function)(of_bytes, pairs, specials)
    except Exception as error:
        return [raised(error) for _ in uses]
    return [_used(_USES[use], tokenizer, arguments) for use, *arguments in uses]


def _used(use: Callable[..., Any], tokenizer: Any, arguments: list[Any]) -> Any:
    try:
        return plain(use(tokenizer, *arguments))
    except Exception as error:
        return raised(error)


def plain(value: Any) -> Any:
    """Return ids and texts as JSON holds them, numbers of other libraries as Python's."""
    if isinstance(value, str):
        return value
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None:
        return None
    return int(value)


def _decode(tokenizer: Any, ids: list[int]) -> str:
    text = tokenizer.decode(ids)
    if not isinstance(text, str):
        raise TypeError(f"decode returns {type(text).__name__}, not str")
    # A surrogate cannot be written as JSON's UTF-8.
    return text.encode("utf-8", "backslashreplace").decode()


class _TooFar(Exception):
    pass


def _lazy(tokenizer: Any, text: str, times: int) -> str:
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        for _ in range(times):
            read += 1
            yield text
        raise _TooFar

    with contextlib.suppress(_TooFar):
        next(iter(tokenizer.encode_iterable(texts())))
    return lazy(read, times)


def lazy(read: int, times: int) -> str:
    """Say what it means that `read` of `times` texts were read before the first id."""
    return "ids come while texts are read" if read <= times // 2 else "everything is read first"


_USES: dict[str, Callable[..., Any]] = {
    "encode": lambda tokenizer, text: list(tokenizer.encode(text)),
    "decode": _decode,
    "encode_iterable": lambda tokenizer, texts: list(tokenizer.encode_iterable(iter(texts))),
    "lazy": _lazy,
}
