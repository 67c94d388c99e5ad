"""Cut a stream of UTF-8 text into blocks of pieces, with memory that does not grow with the stream."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tokenizer.cuts import CLASSES, LETTER, SPACE, UNKNOWN, certain_boundaries
from tokenizer.pretokenize import PATTERNS, Pattern, Pretokenizer
from tokenizer.runs import runs

BLOCK = 1 << 18  # bytes; larger ones no longer fit in a core's cache


@dataclass(frozen=True)
class Block:
    """Pieces of text: piece i is `data[edges[i]:edges[i + 1]]`."""

    data: bytes
    edges: np.ndarray
    offset: int  # of data[0] in the stream


def cut_blocks(
    read: Callable[[int], bytes],
    pretokenizer: Pretokenizer,
    block_size: int = BLOCK,
    first_size: int = BLOCK,
    check: bool = True,
) -> Iterator[Block]:
    """Yield the pieces of a stream; special tokens are pieces of their own.

    With GPT-2's pattern a piece is one pre-token, or several if it holds an apostrophe or a non-ASCII
    character (see `cuts`). With other patterns it is one pre-token.

    Args:
        read: returns the next bytes of the stream, at most so many, and none at its end.
        pretokenizer: the pattern and the special tokens.
        block_size: how many bytes to read at a time.
        first_size: how many to read first, if less; then twice as many each time.
        check: make sure that the text is UTF-8; needless if it was a str.

    Raises:
        UnicodeDecodeError: the text is not UTF-8; its `start` counts from the start of the stream.
    """
    tail, offset, size = b"", 0, min(first_size, block_size)
    while True:
        # At least as much as is left over, so that a piece longer than many blocks costs linear time.
        chunk = read(max(size, len(tail)))
        data = tail + chunk
        if not data:
            return
        edges = _edges(data, pretokenizer, is_last=not chunk)
        if check:
            _check_utf8(data[: edges[-1]], offset)
        if pretokenizer.pattern != "gpt2":
            edges = _split_sections(data, edges, pretokenizer)
        if len(edges) > 1:
            yield Block(data, edges, offset)
        if not chunk:
            return
        tail = data[edges[-1] :]
        offset += int(edges[-1])
        size = min(2 * size, block_size)


def _edges(data: bytes, pretokenizer: Pretokenizer, is_last: bool) -> np.ndarray:
    """Return where `data` can be cut for certain: 0 first, and unless more is to come its end last."""
    starts, ends = pretokenizer.special_spans(data)
    classes = np.frombuffer(bytearray(data.translate(CLASSES)), np.uint8)
    classes[runs(starts, ends - starts)] = UNKNOWN
    is_edge = certain_edges(classes, pretokenizer.pattern)
    is_edge[starts] = is_edge[ends] = True
    is_edge[0] = True
    if is_last:
        is_edge[len(data)] = True
    else:
        # The byte after an edge, or a special token around it, may be incomplete at the end of the data.
        is_edge[max(1, len(data) - pretokenizer.longest_special - 1) :] = False
    return is_edge.nonzero()[0]


def _check_utf8(data: bytes, offset: int) -> None:
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            error.start += offset
            raise


def certain_edges(classes: np.ndarray, pattern: Pattern) -> np.ndarray:
    """Return for each byte, and for the end of the data, whether a pre-token certainly starts there."""
    is_edge = np.zeros(len(classes) + 1, bool)
    if pattern == "gpt2":
        is_edge[1:-1] = certain_boundaries(classes)
    elif pattern in PATTERNS:
        # In the other known patterns, too, no token goes on from an ASCII letter to a space before a letter.
        is_edge[1:-2] = (classes[:-2] == LETTER) & (classes[1:-1] == SPACE) & (classes[2:] == LETTER)
    return is_edge


def _split_sections(data: bytes, edges: np.ndarray, pretokenizer: Pretokenizer) -> np.ndarray:
    """Return the edges of all pre-tokens, given those of sections that can be tokenized alone."""
    lengths: list[int] = []
    for start, end in pairwise(edges.tolist()):
        section = data[start:end].decode()
        pieces = [section] if section in pretokenizer.special_set else pretokenizer.split_ordinary(section)
        lengths += map(len, pieces) if section.isascii() else [len(piece.encode()) for piece in pieces]
    return np.cumsum([0, *lengths])


def token_edges(data: bytes, edges: np.ndarray, pretokenizer: Pretokenizer) -> np.ndarray:
    """Return the edges of the pre-tokens in pieces of a `Block`; meant for each distinct piece once."""
    if pretokenizer.pattern != "gpt2" or len(edges) == 1:
        return edges
    array = np.frombuffer(data, np.uint8)[: edges[-1]]
    uncertain = np.logical_or.reduceat((array > 127) | (array == ord("'")), edges[:-1]).nonzero()[0]
    inner = []
    for start, end in zip(edges[uncertain].tolist(), edges[uncertain + 1].tolist(), strict=True):
        piece = data[start:end].decode()
        if piece not in pretokenizer.special_set:
            for token in pretokenizer.split_ordinary(piece)[:-1]:
                start += len(token) if token.isascii() else len(token.encode())
                inner.append(start)
    return np.sort(np.concatenate([edges, np.array(inner, np.int64)]))
