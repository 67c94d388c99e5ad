"""Windows of text for training, drawn at random from (seed, step) alone, and all windows in order for evaluation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from lm.data.batch import Batch
from lm.data.mixture import draw, find_weighted, mixture_shares
from lm.data.token_files import Tokens, as_int32, open_tokens, read_parts


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


def eval_batches(tokens: Tokens, batch_size: int, context_length: int) -> Iterator[Batch]:
    """Yield all tokens in windows that do not overlap, so that each token except the first is a target once.

    Every batch has the same shape. The padding of the last windows is masked.

    Raises:
        InputError: the token file was deleted or changed.
    """
    num_targets, span = len(tokens) - 1, batch_size * context_length
    for start in range(0, num_targets, span):
        chunk = as_int32(read_parts(tokens, [(start, start + span + 1)])[0])
        padded = np.zeros(span + 1, np.int32)
        padded[: len(chunk)] = chunk
        shape = 1, batch_size, context_length
        is_target = np.arange(span) < len(chunk) - 1
        yield Batch(padded[:-1].reshape(shape), padded[1:].reshape(shape), is_target.reshape(shape))
