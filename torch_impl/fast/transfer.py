"""Copies from the host to the device."""

import torch
from torch import Tensor


def send(x: Tensor, device: torch.device | str) -> Tensor:
    """Copy a tensor of the host to the device. A GPU copies while the host prepares the work that follows.

    A plain copy to a GPU would wait for all work before it.
    """
    return x if torch.device(device).type == "cpu" else x.pin_memory().to(device, non_blocking=True)
