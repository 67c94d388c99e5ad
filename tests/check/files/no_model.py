"""These functions are no models. They take NumPy, which starts in a fifth of torch's time."""

import numpy as np


def ids_alone(token_ids: np.ndarray) -> np.ndarray:
    return np.zeros((*token_ids.shape, 7), np.float32)


def transposed(token_ids: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    return np.zeros((*token_ids.T.shape, len(weights["lm_head.weight"])), np.float32)
