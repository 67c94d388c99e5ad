"""Padded shapes: JAX compiles a program for each shape, and compiling takes longer than running the program.

tests/parity/test_train_step.py counts the compilations.
"""

import numpy as np

from jax_impl.fast import switch


def few_rows(n: int) -> int:
    """Return the number of rows that n rows are padded to: a power of two up to 64, or a multiple of 64."""
    if not switch.is_on():
        return n
    part = min(64, 1 << max(0, n - 1).bit_length())
    return -(-n // part) * part


def few_lengths(n: int, longest: int) -> int:
    """Return the length that n tokens are padded to: one of at most eight, `longest` and powers of two below it."""
    if not switch.is_on():
        return n
    least = max(16, 1 << max(0, (longest - 1) // 128).bit_length())
    return max(n, min(longest, max(least, 1 << max(0, n - 1).bit_length())))


def padded(array: np.ndarray, *shape: int) -> np.ndarray:
    """Return the array, enlarged to a shape by repeating its last row and its last column.

    The padding changes no number in the other rows and columns: rows do not interact, no query sees a later key, and an
    encoder has a mask. Repeated rows hold only tokens that the caller gave.
    """
    if array.shape == shape:  # np.pad would take microseconds of every decode step
        return array
    more = [(0, size - n) for size, n in zip(shape, array.shape, strict=True)]
    return np.pad(array, more, mode="edge")
