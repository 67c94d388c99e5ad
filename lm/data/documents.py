"""Packed documents: where each token's document starts, and which tokens of a text a model reads."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from lm.config import TrainConfig


def document_starts(
    token_ids: Int[np.ndarray, "*B T"], config: TrainConfig
) -> Int[np.ndarray, "*B T"] | None:
    """Return for each token the index at which its document starts, or None if documents are joined.

    An end token is the first token of the next document: a model that predicts it ends a text, and a model that reads
    it begins a text. The first document of a window starts at 0, even if its beginning lies before the window.
    """
    if config.documents == "joined":
        return None
    assert config.end_token is not None  # filled in when the run was opened
    places = np.arange(token_ids.shape[-1], dtype=np.int32)
    is_start = token_ids == config.end_token
    return np.maximum.accumulate(np.where(is_start, places, np.int32(0)), axis=-1)


def last_document(token_ids: Sequence[int], config: TrainConfig) -> list[int]:
    """Return the tokens that the token after them may attend to: if documents are packed, the last document's."""
    ids = list(token_ids)
    if config.documents == "joined" or config.end_token not in ids:
        return ids
    return ids[len(ids) - 1 - ids[::-1].index(config.end_token) :]
