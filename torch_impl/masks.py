"""Which keys a query may attend to, described by ranges: memory grows with the context, not with its square."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from torch_impl import fast
from torch_impl.dtypes import Device


@dataclass(frozen=True)
class Mask:
    """Query t may attend to the keys first[t] .. last[t] that are present.

    Either all of its tensors have a batch axis, or none has one.
    """

    first_T: Int[Tensor, "*B T"]
    last_T: Int[Tensor, "*B T"]
    present_S: Bool[Tensor, "*B S"] | None = None
    """Which keys exist; by default all."""

    def pairs(self, S: int) -> Bool[Tensor, "*B T S"]:
        """Return True if the query may attend to the key, with an axis of size 1 for the heads after a batch axis."""
        key_S = torch.arange(S, device=self.first_T.device)
        pairs_TS = (self.first_T[..., None] <= key_S) & (key_S <= self.last_T[..., None])
        if self.present_S is not None:
            pairs_TS = pairs_TS & self.present_S[..., None, :]
        return pairs_TS if pairs_TS.ndim == 2 else pairs_TS[:, None]


@fast.reuse_mask
def causal_mask(T: int, device: Device = None, window: int | None = None) -> Mask:
    """Query t may attend to the keys up to itself, or only to the last `window` of them (Beltagy et al., 2020)."""
    place_T = torch.arange(T, device=device)
    return Mask((place_T + 1 - (window or T)).clamp(min=0), place_T)


@fast.send_mask
def document_mask(start_BT: Int[Tensor, "B T"], window: int | None = None) -> Mask:
    """Query t may attend to the keys of its own document up to itself, or only to the last `window` of them.

    Args:
        start_BT: The place of the first token of each token's document.
    """
    within = causal_mask(start_BT.shape[1], start_BT.device, window)
    return Mask(torch.maximum(start_BT, within.first_T), within.last_T.expand_as(start_BT))


@fast.send_mask
def padding_mask(num_tokens_B: Int[Tensor, " B"], T: int) -> Mask:
    """Every query may attend to the tokens of the sequence, and not to its padding."""
    place_BT = torch.arange(T, device=num_tokens_B.device).expand(len(num_tokens_B), T)
    zeros_BT = torch.zeros_like(place_BT)
    return Mask(zeros_BT, zeros_BT + (T - 1), place_BT < num_tokens_B[:, None])


@fast.send_mask
def prefix_mask(num_tokens_B: Int[Tensor, " B"], P: int, T: int) -> Mask:
    """The mask of a prefix padded to P places, followed by T tokens.

    Every query may attend to the prefix, and each token to the tokens up to itself.
    """
    place_BS = torch.arange(P + T, device=num_tokens_B.device).expand(len(num_tokens_B), P + T)
    is_present_BS = (place_BS < num_tokens_B[:, None]) | (place_BS >= P)
    return Mask(torch.zeros_like(place_BS), place_BS.clamp(min=P - 1), is_present_BS)
