"""A mixture of files: which file each sequence of a batch comes from."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lm.rng import integers, philox, uniform
from tokenizer.errors import InputError
from tokenizer.files.sources import find_files


def find_weighted(patterns: Sequence[Path], weights: Sequence[float]) -> list[list[Path]]:
    """Return the files of each pattern; the pattern itself if it matches nothing.

    Raises:
        InputError: the weights do not fit.
    """
    if weights and (len(weights) != len(patterns) or not all(0 < w < math.inf for w in weights)):
        raise InputError(
            f"the weights are {' '.join(map(str, weights))}: give one number above 0 for each of the "
            f"{len(patterns)} files or globs to train on"
        )
    return [[Path(file) for file in find_files(str(pattern))] for pattern in patterns]


def mixture_shares(sizes: Sequence[Sequence[int]], weights: Sequence[float]) -> tuple[float, ...]:
    """Return the share of each file, from the sizes of each pattern's files and the patterns' weights.

    >>> mixture_shares([[100, 300], [50]], [1.0, 1.0])
    (0.25, 0.75, 1.0)
    """
    factors = (
        [weight / sum(group) for weight, group in zip(weights, sizes, strict=True)]
        if weights
        else [1.0] * len(sizes)
    )
    return tuple(size * factor for group, factor in zip(sizes, factors, strict=True) for size in group)


def draw(
    sizes: Sequence[int], shares: Sequence[float], seed: int, step: int, batch_size: int
) -> list[tuple[int, int]]:
    """Return (index of the file, index in the file) of each sequence of a step's batch.

    The file is drawn by its share, the index uniformly from 0 .. size of the file - 1.
    """
    bits = philox(seed, "batch", step).random_raw(batch_size)
    if len(sizes) == 1:
        chosen = np.zeros(batch_size, np.int64)
    else:
        u = uniform(philox(seed, "file", step).random_raw(batch_size))
        sums = np.cumsum(shares)
        # Without the last sum, rounding can never choose a file after the last.
        chosen = np.searchsorted(sums[:-1], u * sums[-1], side="right")
    return [(i, int(integers(bits[k : k + 1], sizes[i])[0])) for k, i in enumerate(chosen.tolist())]
