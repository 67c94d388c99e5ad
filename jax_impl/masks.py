"""Which keys a query may attend to, described by ranges: memory grows with the context, not with its square."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mask:
    """Query t may attend to the keys first[t] .. last[t] that are present.

    Either all of its arrays have a batch axis, or none has one.
    """

    first_T: Int[Array, "*B T"]
    last_T: Int[Array, "*B T"]
    present_S: Bool[Array, "*B S"] | None = None
    """Which keys exist; by default all."""

    def pairs(self, S: int) -> Bool[Array, "*B T S"]:
        """Return True if the query may attend to the key, with an axis of size 1 for the heads after a batch axis."""
        first_T1, last_T1 = self.first_T[..., None], self.last_T[..., None]
        key_S = jnp.arange(S).reshape((1,) * self.first_T.ndim + (S,))
        pairs_TS = (first_T1 <= key_S) & (key_S <= last_T1)
        if self.present_S is not None:
            pairs_TS = pairs_TS & self.present_S[..., None, :]
        return pairs_TS if pairs_TS.ndim == 2 else pairs_TS[:, None]


def causal_mask(T: int, window: int | None = None) -> Mask:
    """Query t may attend to the last `window` keys up to itself; without a window to all keys up to itself."""
    place_T = jnp.arange(T)
    return Mask(jnp.maximum(place_T - (window or T) + 1, 0), place_T)


def document_mask(start_BT: Int[Array, "B T"], window: int | None = None) -> Mask:
    """Query t may attend to those keys of `causal_mask` that are of its own document.

    Args:
        start_BT: The place of the first token of each token's document.
    """
    causal = causal_mask(start_BT.shape[1], window)
    first_BT, last_BT = (jnp.broadcast_to(x, start_BT.shape) for x in (causal.first_T, causal.last_T))
    return Mask(jnp.maximum(first_BT, start_BT), last_BT)


def padding_mask(num_tokens_B: Int[Array, " B"], T: int) -> Mask:
    """Every query may attend to the tokens of the sequence, and not to its padding."""
    place_BT = jnp.broadcast_to(jnp.arange(T), (len(num_tokens_B), T))
    zeros_BT = jnp.zeros_like(place_BT)
    return Mask(zeros_BT, zeros_BT + (T - 1), place_BT < num_tokens_B[:, None].astype(place_BT.dtype))


def prefix_mask(num_tokens_B: Int[Array, " B"], P: int, T: int) -> Mask:
    """The mask of a prefix padded to P places, followed by T tokens.

    Every query may attend to the prefix, and each token to the tokens up to itself.
    """
    place_BS = jnp.broadcast_to(jnp.arange(P + T), (len(num_tokens_B), P + T))
    is_present_BS = (place_BS < num_tokens_B[:, None].astype(place_BS.dtype)) | (place_BS >= P)
    return Mask(jnp.zeros_like(place_BS), jnp.maximum(place_BS, P - 1), is_present_BS)
