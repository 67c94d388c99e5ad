"""Fast paths of the layers with hand-written gradients, for eager mode.

The plain formulas, in functional.py, layers.py and attention.py, remain the definition: they run under torch.compile,
which fuses them itself. Here each gradient is written out, so that whole arrays are neither kept nor passed over for
every operation of the formula. Each can be pulled back again and again, as under retain_graph, but not
differentiated twice.
"""

from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.utils.weak import WeakTensorKeyDictionary

_BLOCK = 1 << 18
"""Elements that a block of scores or logits has at most: they stay in the processor's cache."""
_BLOCK_GPU = 1 << 27
"""The same where memory is the limit."""
_ELEMENTS = 1 << 17
"""The same of arrays that are passed over element by element."""
_SMALL = 1 << 16
"""Elements up to which the plain formula of a gate or of the loss takes less time: its gradient is called from C++."""
_KEPT_KEYS = 512
"""Up to so many keys, scores are less than the other activations of a block, and are kept for the gradient."""
_QUERIES = 64
"""Rows of a block of scores on a CPU."""


def is_wanted(x: Tensor | None = None) -> bool:
    """Whether a layer takes its path here: unless it is being compiled, or `x` is small."""
    return not torch.compiler.is_compiling() and (x is None or x.numel() > _SMALL)


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x.to(dtype)`, which takes a microsecond where there is nothing to do."""
    return x if x.dtype == dtype else x.to(dtype)


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or as it is where it is wider: norms, softmax and loss never compute in less."""
    return x.float() if x.dtype.itemsize < 4 else x


class _Unkept:
    """What a forward pass keeps for its gradient, where there will be none."""

    blocks: Any = None

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        pass


def without_gradient(function: Any) -> Callable[..., Tensor]:
    """A function of this module that keeps nothing."""
    return partial(function.forward, _Unkept())


def run(function: Any, *arguments: Any) -> Tensor:
    """A function of this module, without autograd's bookkeeping where no gradient is wanted."""
    return (function.apply if torch.is_grad_enabled() else without_gradient(function))(*arguments)


def _once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse create_graph=True, where torch's once_differentiable lets the gradient pass for a constant at times."""

    @wraps(backward)
    def checked(ctx: Any, g: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "this gradient is written by hand and cannot be differentiated again (create_graph=True); "
                "torch.compile takes the plain formulas, which can"
            )
        return backward(ctx, g)

    return checked


class RMSNorm(Function):
    """x / sqrt(mean(x^2) + eps) * weight; keeps x and a number a row, where autograd keeps three arrays."""

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "... D"], weight: Float[Tensor, " D"], eps: float) -> Tensor:
        x32 = at_least_float32(x)
        inverse_rms = torch.linalg.vector_norm(x32, dim=-1, keepdim=True)
        inverse_rms = inverse_rms.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse_rms)
        return cast((x32 * inverse_rms).mul_(weight), x.dtype)

    @staticmethod
    @_once
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, inverse_rms = ctx.saved_tensors
        g32, normed = at_least_float32(g), at_least_float32(x) * inverse_rms
        product = g32 * normed
        d_weight = product.flatten(0, -2).sum(0) if x.ndim > 1 else product
        # d_x = inverse_rms * (g w - normed * mean(g w normed))
        mean = (product @ weight.to(product.dtype)).div_(x.shape[-1])[..., None]
        d_x = (g32 * weight).sub_(normed.mul_(mean)).mul_(inverse_rms)
        return d_x.to(x.dtype), d_weight.to(weight.dtype), None


class SiLUGate(Function):
    """silu(a) * b; keeps a and b, where autograd keeps the sigmoid and both products too."""

    @staticmethod
    def forward(ctx: Any, a: Float[Tensor, "..."], b: Float[Tensor, "..."]) -> Tensor:
        ctx.save_for_backward(a, b)
        gated = torch.empty_like(a)
        for out, a_part, b_part in cache_sized(gated, a, b):
            a32 = at_least_float32(a_part)
            torch.mul(torch.sigmoid(a32).mul_(a32).to(b.dtype), b_part, out=out)
        return gated

    @staticmethod
    @_once
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        d_a, d_b = torch.empty_like(a), torch.empty_like(b)
        for d_a_part, d_b_part, a_part, b_part, g_part in cache_sized(d_a, d_b, a, b, g):
            a32 = at_least_float32(a_part)
            sigmoid = torch.sigmoid(a32)
            silu = a32 * sigmoid
            # silu' = sigmoid + silu (1 - sigmoid)
            slope = torch.lerp(silu, silu.new_ones(()), sigmoid)
            d_a_part.copy_(slope.mul_(b_part).mul_(g_part))
            d_b_part.copy_(silu.mul_(g_part))
        return d_a, d_b


def cache_sized(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same elements of each, so many at a time that they stay in the processor's cache; of transposes, all."""
    few = tensors[0].device.type != "cpu" or tensors[0].numel() <= _ELEMENTS
    if few or not all(x.is_contiguous() for x in tensors):
        yield tensors
    else:
        flat = [x.reshape(-1) for x in tensors]
        yield from zip(*(x.split(_ELEMENTS) for x in flat), strict=True)


class TokenCrossEntropy(Function):
    """-log softmax(logits)[target]; keeps the exponents alone, where autograd keeps three arrays of their size."""

    @staticmethod
    def forward(ctx: Any, logits: Float[Tensor, "*B V"], targets: Int[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        rows, wanted = logits.flatten(0, -2), targets.flatten().long()[:, None]
        largest = at_least_float32(rows.amax(-1))
        exp, total = torch.empty_like(rows), torch.empty_like(largest)
        for i, block in _blocks(rows):
            part = exp[i] if exp.dtype == largest.dtype else torch.empty_like(block, dtype=largest.dtype)
            torch.sum(torch.sub(block, largest[i, None], out=part).exp_(), -1, out=total[i])
            if exp.dtype != largest.dtype:
                exp[i] = part
        at_target = rows.gather(-1, wanted).squeeze(-1) - largest - total.log()
        ctx.save_for_backward(exp, total, wanted, at_target)
        return -at_target.view(targets.shape)

    @staticmethod
    @_once
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        exp, total, wanted, at_target = ctx.saved_tensors
        d_logits = torch.mul(exp, (g.flatten() / total)[:, None]).to(exp.dtype)
        # From the logarithm: the exponent of a likely target, rounded to bfloat16, has lost 1 - p.
        d_logits.scatter_(-1, wanted, (at_target.expm1() * g.flatten()).to(exp.dtype)[:, None])
        return d_logits.view(*g.shape, -1), None


def _blocks(rows: Float[Tensor, "N V"]) -> Iterator[tuple[slice, Tensor]]:
    """Slices of rows, and what is in them."""
    count = max(1, (_BLOCK if rows.device.type == "cpu" else _BLOCK_GPU) // rows.shape[1])
    for start in range(0, len(rows), count):
        i = slice(start, start + count)
        yield i, rows[i]


def attention(Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None) -> Tensor:
    """`Attention` with any number of leading axes."""
    lead, (T, S) = Q.shape[:-2], (Q.shape[-2], K.shape[-2])
    if Q.device.type == "cpu" and Q.dtype.itemsize >= 4 and lead.numel() * T * S <= _BLOCK:
        hidden = None if mask is None else _hidden_by(mask)
        if mask is None or hidden is not None:
            flat = (x.reshape(-1, *x.shape[-2:]) for x in (Q, K, V))
            return run(SmallAttention, *flat, hidden).view(*lead, T, V.shape[-1])
    if mask is not None and len(lead) > 2 and mask.ndim > 3:
        mask = _four_axes(mask.expand(*lead, *mask.shape[-2:]))
    return run(Attention, *map(_four_axes, (Q, K, V)), mask).view(*lead, T, V.shape[-1])


_hidden_keys = WeakTensorKeyDictionary()
"""What `_hidden_by` has found: the layers of a model share one mask."""


def _hidden_by(mask: Bool[Tensor, "... T S"]) -> Bool[Tensor, "T S"] | None:
    """The mask's opposite, if it is one mask for all sequences and leaves no query and no key out; otherwise None."""
    if mask.ndim > 2:
        return None
    version = None if mask.is_inference() else mask._version
    known, hidden = _hidden_keys.get(mask, (None, None))
    if version is None or version != known:
        hidden = ~mask if mask.any(0).all() and mask.any(1).all() else None
        _hidden_keys[mask] = (version, hidden)
    return hidden


class SmallAttention(Function):
    """softmax(Q K^T / sqrt(d_k)) V, all scores at once, for the few that stay in the processor's cache.

    It takes a third of the operations of `Attention`, whose time is that of the calls if the arrays are small. Every
    query attends to some key, and every key is attended to.
    """

    @staticmethod
    def forward(
        ctx: Any,
        Q: Float[Tensor, "N T K"],
        K: Float[Tensor, "N S K"],
        V: Float[Tensor, "N S V"],
        hidden: Bool[Tensor, "T S"] | None,
    ) -> Float[Tensor, "N T V"]:
        scores = torch.baddbmm(Q.new_zeros(()), Q, K.mT, beta=0, alpha=Q.shape[-1] ** -0.5)
        if hidden is not None:
            scores.masked_fill_(hidden, -torch.inf)
        weights = scores.sub_(scores.amax(-1, keepdim=True)).exp_()
        weights.div_(weights.sum(-1, keepdim=True))
        ctx.save_for_backward(Q, K, V, weights)
        return torch.bmm(weights, V)

    @staticmethod
    @_once
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        Q, K, V, weights = ctx.saved_tensors
        d_weights = torch.bmm(g, V.mT)
        mean = torch.linalg.vecdot(d_weights, weights)[..., None]
        d_scores = d_weights.sub_(mean).mul_(weights).mul_(Q.shape[-1] ** -0.5)
        return torch.bmm(d_scores, K), torch.bmm(d_scores.mT, Q), torch.bmm(weights.mT, g), None


class Attention(Function):
    """softmax(Q K^T / sqrt(d_k)) V, a block of queries of some heads at a time.

    Over long contexts no scores are kept: the gradient computes them again (Rabe and Staats, 2021, section 3). Those at
    hand stay in the processor's cache. On a CPU, keys that no query of a block may see are passed over:
    half the work under a causal mask. The leading axes are the same for all three.
    """

    @staticmethod
    def forward(
        ctx: Any,
        Q: Float[Tensor, "B H T K"],
        K: Float[Tensor, "B H S K"],
        V: Float[Tensor, "B H S V"],
        mask: Bool[Tensor, "... T S"] | None,
    ) -> Float[Tensor, "B H T V"]:
        B, H, T, _ = Q.shape
        unread = None if mask is None else ~mask.any(-2)[..., None]
        if unread is not None and not (unread.device.type == "cpu" and not unread.any()):
            K, V = K.masked_fill(unread, 0), V.masked_fill(unread, 0)
        else:
            unread = None
        blocks = list(_attention_blocks(Q, K, mask))
        # As the projection after it reads it: heads side by side.
        out = V.new_empty(B, T, H, V.shape[-1]).transpose(1, 2)
        largest, total = Q.new_empty(2, B, H, T, 1, dtype=torch.promote_types(Q.dtype, torch.float32))
        kept = []
        for b, h, t, seen_by_all, seen in blocks:
            scores = _scores(Q[b, h, t], K[b, h, :seen], _hidden(mask, b, h, t, seen_by_all, seen))
            top = scores.amax(-1, keepdim=True)
            # A query that may attend to nothing: zeros, whose sum is taken to be 1.
            top.masked_fill_(top == -torch.inf, 0.0)
            weights = scores.sub_(top).exp_()
            sums = weights.sum(-1, keepdim=True)
            sums.masked_fill_(sums == 0.0, 1.0)
            largest[b, h, t], total[b, h, t] = top, sums
            out[b, h, t] = (weights.to(V.dtype) @ V[b, h, :seen]).div_(sums)
            if K.shape[-2] <= _KEPT_KEYS:
                kept.append(weights)
        ctx.save_for_backward(Q, K, V, mask, unread, out, largest, total, *kept)
        ctx.blocks = blocks
        return out

    @staticmethod
    @_once
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        Q, K, V, mask, unread, out, largest, total, *kept = ctx.saved_tensors
        d_Q, d_K, d_V = (_heads_side_by_side(x) for x in (Q, K, V))
        d_K.zero_()
        d_V.zero_()
        scale = Q.shape[-1] ** -0.5
        # The weights are these exponents over their sum, which divides what flows in instead.
        g = at_least_float32(g) / total
        # From an output that was rounded to bfloat16, the mean would be off by more than the gradients may be.
        mean = (g * out).sum(-1, keepdim=True) if out.dtype == g.dtype else None
        g = g.to(V.dtype)
        for i, (b, h, t, seen_by_all, seen) in enumerate(ctx.blocks):
            q, k, v, g_out = Q[b, h, t], K[b, h, :seen], V[b, h, :seen], g[b, h, t]
            if kept:
                weights = kept[i]
            else:
                scores = _scores(q, k, _hidden(mask, b, h, t, seen_by_all, seen))
                weights = scores.sub_(largest[b, h, t]).exp_()
            d_V[b, h, :seen].add_(weights.to(v.dtype).mT @ g_out)
            d_weights = at_least_float32(g_out @ v.mT)
            if mean is None:
                means = torch.linalg.vecdot(d_weights, weights)[..., None] / total[b, h, t]
            else:
                means = mean[b, h, t]
            d_scores = d_weights.sub_(means).mul_(weights).to(q.dtype)
            d_Q[b, h, t] = (d_scores @ k).mul_(scale)
            d_K[b, h, :seen].add_((d_scores.mT @ q).mul_(scale))
        if unread is not None:
            d_K.masked_fill_(unread, 0)
            d_V.masked_fill_(unread, 0)
        return d_Q, d_K, d_V, None


def _attention_blocks(
    Q: Tensor, K: Tensor, mask: Tensor | None
) -> Iterator[tuple[slice, slice, slice, int, int]]:
    """Entries of the batch, heads and queries; how many first keys all of these see, and how many any does."""
    (B, H, T, _), S = Q.shape, K.shape[-2]
    spans = [(slice(0, T), 0 if mask is not None else S, S)]
    limit = _BLOCK if Q.device.type == "cpu" else _BLOCK_GPU
    if mask is not None and mask.ndim == 2 and mask.device.type == "cpu" and limit < B * H * T * S:
        spans = []
        for start in range(0, T, _QUERIES):
            rows = mask[start : start + _QUERIES]
            by_all = int(rows.all(0).long().cumprod(0).sum())
            by_any = int((rows.any(0) * torch.arange(1, S + 1)).amax())
            spans.append((slice(start, min(start + _QUERIES, T)), by_all, max(by_any, 1)))
    for t, by_all, by_any in spans:
        count = max(1, limit // ((t.stop - t.start) * by_any))  # heads
        for b in range(0, B, max(1, count // H)):
            for h in range(0, H, min(count, H)):
                yield slice(b, b + max(1, count // H)), slice(h, h + count), t, by_all, by_any


def _heads_side_by_side(x_BHTK: Tensor) -> Tensor:
    """Memory for a gradient, in the order of the projection that it goes back through."""
    return torch.empty_like(x_BHTK.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)


def _hidden(mask: Tensor | None, b: slice, h: slice, t: slice, seen_by_all: int, seen: int) -> Tensor | None:
    """Where a block's keys, but for those that all its queries see, are hidden."""
    if mask is None or seen_by_all == seen:
        return None
    index = [
        i if size > 1 else slice(None) for i, size in zip((b, h, t), _four_axes(mask).shape, strict=False)
    ]
    return ~_four_axes(mask)[(*index, slice(seen_by_all, seen))]


def _four_axes(x: Tensor) -> Tensor:
    """With axes of size 1 before the others, or the first ones as one."""
    return x.flatten(0, -4) if x.ndim > 4 else x[(None,) * (4 - x.ndim)]


def _scores(Q: Tensor, K: Tensor, hidden: Tensor | None) -> Tensor:
    """Q K^T / sqrt(d_k) in at least float32, -inf where one of the last keys is hidden from the query."""
    scores = (at_least_float32(Q) * Q.shape[-1] ** -0.5) @ at_least_float32(K).mT
    if hidden is not None:
        scores[..., scores.shape[-1] - hidden.shape[-1] :].masked_fill_(hidden, -torch.inf)
    return scores


def rotate(x_TK: Float[Tensor, "*T K"], turn_TP: Complex[Tensor, "*#T P"]) -> Float[Tensor, "*T K"]:
    """RoPE as a product of complex numbers, cosine and sine, of which autograd keeps but these."""
    x32 = at_least_float32(x_TK)
    if x32.stride(-1) != 1 or any(s % 2 for s in (*x32.stride()[:-1], x32.storage_offset())):
        x32 = x32.contiguous()
    turned = torch.view_as_complex(x32.view(*x32.shape[:-1], -1, 2)) * turn_TP
    return cast(torch.view_as_real(turned).flatten(-2), x_TK.dtype)
