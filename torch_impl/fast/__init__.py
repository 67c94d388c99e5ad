"""Faster forms of the formulas, and the switch that turns all of them off.

The formulas remain the definition: the parity tests hold every form to its formula, and torch.compile, which fuses
operations itself, is given the formulas.
"""

from torch_impl.fast.attention import (
    grouped_query_attention,
    rope,
    scaled_dot_product_attention,
)
from torch_impl.fast.blocks import blockwise, gelu_gate, rmsnorm, silu_gate, token_cross_entropy
from torch_impl.fast.masks import reuse_mask, send_mask
from torch_impl.fast.packing import Array, moments, pack
from torch_impl.fast.product import choices, keep_plain, project, repeat
from torch_impl.fast.switch import path, use, used
from torch_impl.fast.transfer import send

__all__ = [
    "Array",
    "blockwise",
    "choices",
    "gelu_gate",
    "grouped_query_attention",
    "keep_plain",
    "moments",
    "pack",
    "path",
    "project",
    "repeat",
    "reuse_mask",
    "rmsnorm",
    "rope",
    "scaled_dot_product_attention",
    "send",
    "send_mask",
    "silu_gate",
    "token_cross_entropy",
    "use",
    "used",
]
