"""Windows of text for training, drawn at random from (seed, step) alone, and all windows in order for evaluation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from lm.data.batch import Batch
from lm.data.mixture import draw, find_weighted, mixture_shares
from lm.data.token_files import Tokens, as_int32, find_token, open_tokens, read_parts


@dataclass(frozen=True)
class Corpus:
    """Token files that training windows are drawn from."""

    files: tuple[Tokens, ...]
    shares: tuple[float, ...]
    """The share of the windows that each file gives. Any positive numbers; their sum need not be 1."""

    def starts(self, seed: int, step: int, batch_size: int, context_length: int) -> list[tuple[int, int]]:
        """Return (index of the file, start in the file) of each window of a step's batch.

        The file is drawn by its share, the start uniformly from 0 .. tokens of the file - context_length - 1.
        """
        sizes = [len(tokens) - context_length for tokens in self.files]
        return draw(sizes, self.shares, seed, step, batch_size)


def open_corpus(
    patterns: Sequence[Path], weights: Sequence[float], vocab_size: int, context_length: int
) -> tuple[Corpus, tuple[Path, ...]]:
    """Open token files as one corpus, and return their paths too.

    Args:
        patterns: Files or globs, such as `stories/*.npy`.
        weights: The share of the windows that each pattern gives. Within a pattern, and if there are no weights, the
            files give windows in proportion to their size, as if they were one file.

    Raises:
        InputError: the weights do not fit, or a file cannot be used.
        FileNotFoundError: a pattern matches nothing.
    """
    found = find_weighted(patterns, weights)
    opened = [[open_tokens(path, vocab_size, context_length) for path in paths] for paths in found]
    sizes = [[len(tokens) - context_length for tokens in group] for group in opened]
    return Corpus(tuple(chain(*opened)), mixture_shares(sizes, weights)), tuple(chain(*found))


def get_batch(
    tokens: Tokens | Corpus,
    seed: int,
    step: int,
    batch_size: int,
    context_length: int,
    micro_batches: int = 1,
) -> Batch:
    """Return the training batch of one step, a pure function of (tokens, seed, step, sizes).

    Each window starts at a position drawn uniformly from 0 .. len(tokens) - context_length - 1.

    Raises:
        InputError: a token file was deleted or changed.
    """
    corpus = tokens if isinstance(tokens, Corpus) else Corpus((tokens,), (1.0,))
    starts = corpus.starts(seed, step, batch_size, context_length)
    windows: Tokens = np.empty((batch_size, context_length + 1), np.int32)
    for i, file in enumerate(corpus.files):
        rows = [row for row, (chosen, _) in enumerate(starts) if chosen == i]
        parts = [(starts[row][1], starts[row][1] + context_length + 1) for row in rows]
        for row, window in zip(rows, read_parts(file, parts), strict=True):
            windows[row] = as_int32(window)
    windows = windows.reshape(micro_batches, -1, context_length + 1)
    return Batch(windows[..., :-1], windows[..., 1:])


def eval_windows(tokens: Tokens, context_length: int, end_token: int | None = None) -> list[tuple[int, int]]:
    """Return (start, stop) of the inputs of each window of an evaluation. Each token except the last is an input once.

    Args:
        end_token: The token that begins each document. If given, a window begins at the start of a document and holds
            as many whole documents as fit, so that each token is predicted from all of its document that precedes it.
            A document longer than a window is split into windows of its own. If not given, all windows have
            context_length tokens, except the last.

    Raises:
        InputError: the token file was deleted or changed.

    >>> eval_windows(np.array([0, 5, 0, 5, 5, 0, 5, 0, 5, 5, 5, 5, 5]), 4, end_token=0)
    [(0, 2), (2, 5), (5, 7), (7, 11), (11, 12)]
    """
    num_inputs = len(tokens) - 1
    bounds = [0, num_inputs]
    if end_token is not None:
        begins = chain(*(found + 1 for found in find_token(tokens[1:-1], end_token)))
        bounds = _join_documents([0, *map(int, begins), num_inputs], context_length)
    return [
        (start, min(start + context_length, bound))
        for first, bound in pairwise(bounds)
        for start in range(first, bound, context_length)
    ]


def _join_documents(bounds: list[int], most: int) -> list[int]:
    """Return the bounds at which a window begins, given those of documents, so that it holds at most `most` tokens."""
    begins = [0]
    for stop, next_stop in pairwise(bounds[1:]):
        if next_stop - begins[-1] > most:
            begins.append(stop)
    return [*begins, bounds[-1]]


def eval_batches(
    tokens: Tokens, batch_size: int, context_length: int, end_token: int | None = None
) -> Iterator[Batch]:
    """Yield all windows of an evaluation (`eval_windows`), in which each token except the first is a target once.

    Every batch has the same shape. The padding of windows is masked.

    Raises:
        InputError: the token file was deleted or changed.
    """
    windows = eval_windows(tokens, context_length, end_token)
    for first in range(0, len(windows), batch_size):
        parts = [(start, stop + 1) for start, stop in windows[first : first + batch_size]]
        inputs, targets = np.zeros((2, 1, batch_size, context_length), np.int32)
        is_target = np.zeros(inputs.shape, bool)
        for row, part in enumerate(map(as_int32, read_parts(tokens, parts))):
            size = len(part) - 1
            inputs[0, row, :size], targets[0, row, :size] = part[:-1], part[1:]
            is_target[0, row, :size] = True
        yield Batch(inputs, targets, is_target)
