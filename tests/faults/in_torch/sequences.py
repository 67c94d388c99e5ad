"""Faults in torch_impl/sequences.py."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tests.faults.fault import PREFIXED, fault


@fault("RoPE continues after a prefix's padding", "torch_impl.sequences.after_prefix", PREFIXED)
def _(after_prefix: Any) -> Any:
    def broken(decoder: Any, hidden_BPD: Tensor, num_tokens_B: Tensor, *others: Any) -> tuple[Tensor, Any]:
        x_BSD, contexts = after_prefix(decoder, hidden_BPD, num_tokens_B, *others)
        all_P = torch.full_like(num_tokens_B, hidden_BPD.shape[1])
        _, of_whole_prefix = after_prefix(decoder, hidden_BPD, all_P, *others)
        return x_BSD, {"full": replace(contexts["full"], rope=of_whole_prefix["full"].rope)}

    return broken
