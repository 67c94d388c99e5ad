"""Gradients by the complex step, exact to rounding."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Real = np.ndarray[Any, np.dtype[np.float64]]
Weights = Mapping[str, np.ndarray]
"""Arrays by dotted name, as in a checkpoint."""
LEADING_AXES = 5
"""One axis for the perturbations, and axes of size 1 that broadcast against the other arrays' axes."""


def gradient(f: Callable[[Weights], np.ndarray], arrays: Weights, cotangent: np.ndarray) -> dict[str, Real]:
    """Return the gradient of sum(cotangent * f(arrays)) with respect to every element of every array.

    For a function that is analytic, and real on the real line, Im f(x + ih) / h is the derivative. It is exact to
    rounding for every small h, since nothing is subtracted (Squire and Trapp, 1998).
    """
    h, at_once = 1e-30, 256
    gradients = {}
    for name, array in arrays.items():
        slopes = np.empty(array.size)
        for start in range(0, array.size, at_once):
            elements = np.arange(start, min(start + at_once, array.size))
            steps = np.zeros((len(elements), array.size), np.complex128)
            steps[np.arange(len(elements)), elements] = 1j * h
            moved = array + steps.reshape(-1, *(1,) * (LEADING_AXES - 1), *array.shape)
            changes = f({**arrays, name: moved}).imag.reshape(-1, cotangent.size) / h
            slopes[elements] = changes @ cotangent.ravel()
        gradients[name] = slopes.reshape(array.shape)
    return gradients
