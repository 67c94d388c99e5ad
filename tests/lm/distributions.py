"""Goodness of fit, by the statistic of Kolmogorov and Smirnov."""

import math
from collections.abc import Callable

import numpy as np

Cdf = Callable[[np.ndarray], np.ndarray]

# One sample in a thousand exceeds it: 2 exp(-2 x^2) = 0.001.
KS_LIMIT = 1.95


def ks_statistic(sample: np.ndarray, cdf: Cdf) -> float:
    """Return sqrt(n) times the largest distance between the sample's distribution and `cdf`."""
    n = len(sample)
    probability = cdf(np.sort(sample))
    steps = np.arange(n + 1) / n
    return math.sqrt(n) * float(max((steps[1:] - probability).max(), (probability - steps[:-1]).max()))


def truncated_normal_cdf(limit: float, std: float = 1.0) -> Cdf:
    """Return the distribution of N(0, std^2) conditioned on [-limit std, limit std]."""
    erf = np.vectorize(math.erf)
    return lambda x: 0.5 + 0.5 * erf(x / std / math.sqrt(2)) / math.erf(limit / math.sqrt(2))
