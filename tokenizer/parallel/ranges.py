"""Cut files into ranges that can be tokenized alone."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import regex

from tokenizer.characters import BREAK
from tokenizer.cuts import CLASSES, UNKNOWN, certain_edges, normalizes_alone
from tokenizer.errors import InputError
from tokenizer.files.sources import is_pairs, open_source
from tokenizer.machine import num_processors
from tokenizer.parallel.workers import MAX_WORKERS
from tokenizer.pretokenize import Pretokenizer

RANGE = 1 << 22  # bytes that are encoded at a time
SMALL = 1 << 25  # bytes; a smaller text is done before other processes have started

Range = tuple[str, int, int]  # a file, the first byte, the byte after the last


def share(num_bytes: int, num_workers: int | None) -> tuple[int, int]:
    """Return how many processes to use for a text, and how many bytes to give to one of them at a time.

    Args:
        num_bytes: the size of the text.
        num_workers: how many the caller asked for; None for one per processor.

    Raises:
        InputError: `num_workers` is less than one, or more than any machine has processors.
    """
    if num_workers is not None and not 1 <= num_workers <= MAX_WORKERS:
        raise InputError(f"num_workers is {num_workers}; ask for 1 to {MAX_WORKERS}")
    if num_bytes < SMALL:
        return 1, RANGE
    num_workers = num_workers or num_processors()
    return num_workers, min(RANGE, 1 + num_bytes // (4 * num_workers))


def cut_files(
    paths: list[str], pretokenizer: Pretokenizer, range_size: int, window: int = 1 << 13
) -> Iterator[Range]:
    """Yield ranges that cover one file after the other, of about `range_size` bytes if the text allows it.

    Files of pairs are cut at the ends of lines.
    """
    margin = _margin(pretokenizer)
    window = max(window, 8 * margin)
    for path in paths:
        with open_source(path) as file:
            size, start = file.seek(0, os.SEEK_END), 0
            while start < size:
                at, end = start + range_size, size
                while at < size:
                    file.seek(at)
                    data = file.read(window)
                    edges = line_edges(data) if is_pairs(path) else safe_edges(data, pretokenizer)
                    if len(edges):
                        end = at + int(edges[0])
                        break
                    # The next window begins at the end of this window's inner part.
                    at += max(1, len(data) - 2 * margin)
                yield path, start, end
                start = end


def _margin(pretokenizer: Pretokenizer) -> int:
    """Return how far from the ends of a window a special token that reaches out of it may have an effect."""
    return 2 * pretokenizer.longest_special + 2


def line_edges(data: bytes) -> np.ndarray:
    """Return the positions at which lines end."""
    return (np.frombuffer(data, np.uint8) == ord("\n")).nonzero()[0] + 1


def safe_edges(data: bytes, pretokenizer: Pretokenizer) -> np.ndarray:
    """Return where `data` can be cut, whatever text stands before and after it, so that both sides can be
    tokenized alone.

    If special tokens overlap, the text before decides which of them are found. So every possible one counts as
    unknown, and its end is a safe edge only if nothing overlaps with it.
    """
    depth = np.zeros(len(data) + 1, np.int64)  # how many special tokens a byte may belong to
    spans = []
    for token in pretokenizer.special_tokens:
        for match in regex.finditer(regex.escape(token.encode(), special_only=True), data, overlapped=True):
            spans.append(match.span())
            depth[match.start()] += 1
            depth[match.end()] -= 1
    depth = np.cumsum(depth)[:-1]
    classes = np.frombuffer(data.translate(CLASSES), np.uint8)
    is_edge = certain_edges(np.where(depth > 0, UNKNOWN, classes), pretokenizer.pattern)
    # A token before a safe edge must end there even if no text follows. The last character of whitespace is a
    # token of its own only if text follows.
    is_edge[1:] &= classes != BREAK
    for start, end in spans:
        is_edge[end] = depth[start:end].max() == 1
    if pretokenizer.normalizer:
        is_edge &= normalizes_alone(data, pretokenizer)
    margin = _margin(pretokenizer)
    is_edge[:margin] = False
    is_edge[max(0, len(data) - margin) :] = False
    return is_edge.nonzero()[0]


@contextmanager
def open_range(path: str, start: int, end: int) -> Iterator[Callable[[int], bytes]]:
    """Yield a function that reads the next bytes of a range, at most as many as asked for, and none at its end."""
    _keep_freed_memory()
    with open_source(path, read_ahead=min(end - start, 1 << 24)) as file:
        file.seek(start)
        yield lambda size: file.read(min(size, end - file.tell()))


def _keep_freed_memory() -> None:
    """Make malloc reuse the memory of freed arrays instead of returning it to the system.

    glibc's malloc reuses memory for arrays up to the size of one that was freed before, such as this one. The array
    itself is never touched. This saves a fifth of the time.
    """
    np.empty(1 << 24, np.uint8)
