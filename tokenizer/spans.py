"""Index arithmetic for many short stretches of an array at once."""

import numpy as np


def edges_of(lengths: np.ndarray | list[int]) -> np.ndarray:
    """Return where consecutive pieces of these lengths start, and where the last one ends."""
    edges = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=edges[1:])
    return edges


def runs(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the indices of all stretches, concatenated.

    >>> runs(np.array([10, 20]), np.array([2, 3])).tolist()
    [10, 11, 20, 21, 22]
    """
    edges = edges_of(lengths)
    indices = np.repeat(starts - edges[:-1], lengths)
    indices += np.arange(edges[-1])
    return indices


def gather(data: bytes, edges: np.ndarray, pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the concatenated bytes of some of the pieces, and the length of each."""
    starts, lengths = edges[pieces], edges[pieces + 1] - edges[pieces]
    return np.frombuffer(data, np.uint8)[runs(starts, lengths)], lengths
