"""The ring of slots in which a layer's cache keeps keys and values: position t takes slot P + t mod S.

P slots before the ring hold an encoder-decoder's prefix. A sliding layer's ring is as long as its window, so that each
new token takes the slot of the token that leaves the window.
"""

import numpy as np
from jaxtyping import Int

from lm.config import LayerType, ModelConfig


def ring_length(config: ModelConfig, layer_type: LayerType, slots: int) -> int:
    """Return S, the number of slots in the rings of such layers.

    Args:
        slots: Length of the rings of full layers.
    """
    return min(slots, config.window(layer_type) or slots)


def kept_places(lengths_B: Int[np.ndarray, " B"], P: int, S: int) -> Int[np.ndarray, "B slots"]:
    """Return the place in a prompt, after its prefix, of the token that each of the P + S slots takes.

    A slot that no token of the prompt takes gets the first token. A later token overwrites it before it is visible.

    >>> kept_places(np.array([2, 5]), 1, 3).tolist()
    [[0, 1, 2, 1], [0, 4, 5, 3]]
    """
    last_B1, slot_S = lengths_B[:, None] - 1, np.arange(S)
    ring_BS = P + np.maximum(last_B1 - (last_B1 - slot_S) % S, 0)
    prefix_BP = np.broadcast_to(np.arange(P), (len(lengths_B), P))
    return np.concatenate((prefix_BP, ring_BS), axis=1)
