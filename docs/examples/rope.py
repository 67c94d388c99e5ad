"""A student's rotary positions, by the course's adapter name."""

import torch
from torch import Tensor


def run_rope(
    d_k: int, theta: float, max_seq_len: int, in_query_or_key: Tensor, token_positions: Tensor
) -> Tensor:
    frequencies = theta ** (-torch.arange(0, d_k, 2) / d_k)
    angles = torch.arange(max_seq_len)[:, None] * frequencies
    cos, sin = angles.cos()[token_positions], angles.sin()[token_positions]
    first, second = in_query_or_key.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
