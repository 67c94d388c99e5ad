import re
p="torch_impl/fast/attention.py"
s=open(p).read()
start=s.index("def attention(Q: Tensor, K: Tensor, V: Tensor, mask")
head='''"""Faster forms of attention and of RoPE."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor
from torch.autograd import Function
from torch.utils.weak import WeakTensorKeyDictionary

from torch_impl.dtypes import at_least_float32
from torch_impl.fast.blocks import ROWS_BLOCK, ROWS_BLOCK_GPU
from torch_impl.fast.gradients import apply, cast, differentiable_once

_KEPT_KEYS = 512
"""Up to this many keys, the scores are smaller than a block's other activations, and are kept for the gradient."""
_QUERIES = 64
"""Queries in a block of scores on a CPU."""
Drop = Callable[[Tensor], Tensor]


def single_query_attention(
    q_BHTK: Float[Tensor, "*B H T K"],
    k_BGSK: Float[Tensor, "*B G S K"],
    v_BGSK: Float[Tensor, "*B G S K"],
    mask: Bool[Tensor, "*M T S"] | None,
    drop: Drop | None = None,
) -> Any:
    """Attend with one query a sequence, without a gradient: a decode step.

    It takes a third of the formula's operations, whose time is that of their calls. Keys and values must be finite,
    those that the mask hides too: a cache holds zeros until it is written.
    """
    if q_BHTK.ndim != 4 or q_BHTK.shape[2] > 1 or drop is not None or torch.is_grad_enabled():
        return NotImplemented
    (B, H, _, K), (G, S) = q_BHTK.shape, k_BGSK.shape[1:3]
    q_NRK = (at_least_float32(q_BHTK) * K**-0.5).reshape(B * G, H // G, K)
    scores_NRS = torch.bmm(q_NRK, at_least_float32(k_BGSK).flatten(0, 1).mT)
    if mask is not None:
        scores_NRS.view(B, H, 1, S).masked_fill_(~mask, -torch.inf)
    # A query that may attend to nothing: zeros, whose sum is taken to be the smallest number.
    least = torch.finfo(scores_NRS.dtype)
    exp_NRS = scores_NRS.sub_(scores_NRS.amax(-1, keepdim=True).clamp_(min=least.min)).exp_()
    weights_NRS = exp_NRS.div_(exp_NRS.sum(-1, keepdim=True).clamp_(min=least.tiny))
    return torch.bmm(cast(weights_NRS, v_BGSK.dtype), v_BGSK.flatten(0, 1)).view(B, H, 1, K)


def scaled_dot_product_attention(
    Q: Float[Tensor, "*B T K"],
    K: Float[Tensor, "*B S K"],
    V: Float[Tensor, "*B S V"],
    mask: Bool[Tensor, "... T S"] | None = None,
    drop: Drop | None = None,
) -> Any:
    """Attend with `SmallAttention` or `Attention`, whatever the number of leading axes."""
    if drop is not None:
        return NotImplemented
'''
body=s[start:]
body=body[body.index("    lead, (T, S)"):]
body=body.replace("_BLOCK_GPU","ROWS_BLOCK_GPU").replace("_BLOCK:","ROWS_BLOCK:").replace("<= _BLOCK\n","<= ROWS_BLOCK\n")
body=re.sub(r"(?<![A-Z_])_BLOCK\b","ROWS_BLOCK",body)
body=body.replace("@_once","@differentiable_once").replace("run(SmallAttention","apply(SmallAttention").replace("run(Attention","apply(Attention")
body=body.replace("hidden = None if mask is None else _hidden_by(mask)","hidden = None if mask is None else _hidden_keys(mask)")
i=body.index("_hidden_keys = WeakTensorKeyDictionary()"); j=body.index("class SmallAttention")
body=body[:i]+'''_known_masks = WeakTensorKeyDictionary()
"""What `_hidden_keys` has found: the layers of a model share one mask."""


def _hidden_keys(mask: Bool[Tensor, "... T S"]) -> Bool[Tensor, "T S"] | None:
    """Return the mask's opposite if one mask serves all sequences and leaves no query and no key out; otherwise None."""
    if mask.ndim > 2:
        return None
    version = None if mask.is_inference() else mask._version
    known, hidden = _known_masks.get(mask, (None, None))
    if version is None or version != known:
        hidden = ~mask if mask.any(0).all() and mask.any(1).all() else None
        _known_masks[mask] = (version, hidden)
    return hidden


'''+body[j:]
k=body.index("def rotate(")
body=body[:k]+'''def rope(x_TK: Float[Tensor, "*T K"], tables: tuple[Tensor, Tensor]) -> Float[Tensor, "*T K"]:
    """Rotate by a product of complex numbers, cosine and sine, and keep only these for the gradient."""
    x32, turn_TP = at_least_float32(x_TK), torch.complex(*tables)
    if x32.stride(-1) != 1 or any(s % 2 for s in (*x32.stride()[:-1], x32.storage_offset())):
        x32 = x32.contiguous()
    turned = torch.view_as_complex(x32.view(*x32.shape[:-1], -1, 2)) * turn_TP
    return cast(torch.view_as_real(turned).flatten(-2), x_TK.dtype)
'''
head=head.replace("Bool, Complex, Float","Bool, Float")
# language
rep=[
('''    """softmax(Q K^T / sqrt(d_k)) V, all scores at once, for the few that stay in the processor's cache.

    It takes a third of the operations of `Attention`, whose time is that of the calls if the arrays are small. Every
    query attends to some key, and every key is attended to.
    """''','''    """softmax(Q K^T / sqrt(d_k)) V with all scores at once, if they are few enough to stay in the processor's cache.

    It takes a third of the operations of `Attention`. For small arrays, an operation takes the time of its call. Every
    query must attend to some key, and every key must be attended to.
    """'''),
('''    """softmax(Q K^T / sqrt(d_k)) V, a block of queries of some heads at a time.

    Over long contexts no scores are kept: the gradient computes them again (Rabe and Staats, 2021, section 3). Those at
    hand stay in the processor's cache. On a CPU, keys that no query of a block may see are passed over:
    half the work under a causal mask. The leading axes are the same for all three.
    """''','''    """softmax(Q K^T / sqrt(d_k)) V, a block of queries of some heads at a time.

    A block's scores stay in the processor's cache. Over long contexts they are not kept: the gradient computes them
    again (Rabe and Staats, 2021, section 3). On a CPU, keys that no query of a block may see are passed over: half the
    work under a causal mask. Q, K and V have the same leading axes.
    """'''),
('''        # As the projection after it reads it: heads side by side.
''','''        # Heads side by side, as the projection after it reads them.
'''),
('''            # A query that may attend to nothing: zeros, whose sum is taken to be 1.
''','''            # A query that may attend to nothing yields zeros: their sum is taken to be 1.
'''),
('''        # The weights are these exponents over their sum, which divides what flows in instead.
''','''        # The weights are the exponentials over their sum. The sum divides the incoming gradient instead.
'''),
('''        # From an output that was rounded to bfloat16, the mean would be off by more than the gradients may be.
''','''        # The mean of an output that was rounded to bfloat16 would be off by more than the gradients may be.
'''),
('''    """Entries of the batch, heads and queries; how many first keys all of these see, and how many any does."""
''','''    """Yield entries of the batch, heads and queries of a block, and two counts of first keys.

    All of the block's queries see the first count of keys, and none sees a key after the second count.
    """
'''),
('''    """Memory for a gradient, in the order of the projection that it goes back through."""
''','''    """Return memory for a gradient, laid out as the projection that it flows back through."""
'''),
('''    """Where a block's keys, but for those that all its queries see, are hidden."""
''','''    """Return which of a block's keys are hidden, from the first key that some query does not see."""
'''),
('''    """With axes of size 1 before the others, or the first ones as one."""
''','''    """Return `x` with axes of size 1 before the others, or with the first axes merged."""
'''),
('''    """Q K^T / sqrt(d_k) in at least float32, -inf where one of the last keys is hidden from the query."""
''','''    """Return Q K^T / sqrt(d_k) in at least float32, and -inf for keys that are hidden from the query."""
'''),
]
for a,b in rep:
    assert a in body,a
    body=body.replace(a,b)
body=body.replace("seen_by_all, seen","seen_by_all, seen")
open(p,"w").write(head+body)
