"""Padded shapes: JAX compiles a program for each shape, which takes longer than the program runs.

Measured by `bench generate`, and by the number of compilations (tests/parity/test_train_step.py).
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
    """Repeat the array's last row and last column up to a shape.

    The padding changes no number of the other rows and columns: rows do not meet, no query sees a later key, and an
    encoder has a mask. A repeated row holds no token that the caller did not give.
    """
    if array.shape == shape:  # np.pad takes microseconds, and a decode step has few
        return array
    more = [(0, size - n) for size, n in zip(shape, array.shape, strict=True)]
    return np.pad(array, more, mode="edge")
