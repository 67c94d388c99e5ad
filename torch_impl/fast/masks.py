"""Masks that the host makes and sends: it knows their numbers, and plans attention's blocks without reading a GPU."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from torch_impl.fast.switch import is_on
from torch_impl.fast.transfer import on_host, send

Mask = Any
"""A `torch_impl.masks.Mask`. That module imports this one."""
_HOST = torch.device("cpu")
_KEPT = 8
"""Most masks that are kept."""
_masks: dict[tuple[int, torch.device, int | None], Mask] = {}


def reuse_mask(make: Callable[..., Mask]) -> Callable[..., Mask]:
    """Return the mask of an earlier call with these arguments, while fast forms are on. Its plan is then made once."""

    @wraps(make)
    def reused(T: int, device: torch.device | str | None = None, window: int | None = None) -> Mask:
        if not is_on():
            return make(T, device, window)
        key = T, torch.device(device or torch.get_default_device()), window
        if key not in _masks:
            if len(_masks) == _KEPT:
                del _masks[next(iter(_masks))]
            # Training must be able to use a mask that is first needed in inference.
            with torch.inference_mode(False):
                _masks[key] = _send(make(T, _HOST, window), key[1])
        return _masks[key]

    return reused


def send_mask(make: Callable[..., Mask]) -> Callable[..., Mask]:
    """Make the mask in the host's memory, of what came from there, and send it, while fast forms are on."""

    @wraps(make)
    def sent(of_batch: Tensor, *others: Any) -> Mask:
        if not is_on():
            return make(of_batch, *others)
        return _send(make(on_host(of_batch), *others), of_batch.device)

    return sent


def _send(mask: Mask, device: torch.device) -> Mask:
    if device == _HOST:
        return mask
    first_T, last_T = send(mask.first_T, device), send(mask.last_T, device)
    present_S = None if mask.present_S is None else send(mask.present_S, device)
    return replace(mask, first_T=first_T, last_T=last_T, present_S=present_S)
