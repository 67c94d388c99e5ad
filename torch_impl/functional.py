"""Functions without weights of their own: product, softmax, activations, dropout, cross-entropy, gradient clipping."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor

from lm.dropout import step_keys, threshold
from torch_impl import fast
from torch_impl.dtypes import at_least_float32


@fast.path(fast.project)
def project(x: Float[Tensor, "*B I"], weight: Float[Tensor, "O I"]) -> Float[Tensor, "*B O"]:
    """x W^T; the weight is cast to x's dtype."""
    return x @ weight.to(x.dtype).T


def softmax(x: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    """exp(x) / sum(exp(x)) along `dim`, computed in at least float32 and returned in x's dtype.

    The maximum is subtracted first, so that nothing overflows.
    """
    x32 = at_least_float32(x)
    exp = torch.exp(x32 - x32.amax(dim, keepdim=True).detach())
    return (exp / exp.sum(dim, keepdim=True)).to(x.dtype)


def silu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x * sigmoid(x) (Elfwing et al., 2017, eq. 1), computed in at least float32."""
    x32 = at_least_float32(x)
    return (x32 * torch.sigmoid(x32)).to(x.dtype)


def gelu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x Phi(x) with the normal distribution's Phi (Hendrycks and Gimpel, 2016), exact, in at least float32.

    Phi is computed by erfc, since 1 + erf cancels if x is negative.
    """
    x32 = at_least_float32(x)
    return (0.5 * x32 * torch.erfc(-x32 * 0.5**0.5)).to(x.dtype)


def gelu_tanh(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """0.5 x (1 + tanh(u)), u = sqrt(2 / pi) (x + 0.044715 x^3) (Hendrycks and Gimpel, 2016), in at least float32.

    It approximates `gelu`. It is computed as x * sigmoid(2 u), since 1 + tanh cancels if x is negative.
    """
    x32 = at_least_float32(x)
    u = (2 / math.pi) ** 0.5 * (x32 + 0.044715 * x32**3)
    return (x32 * torch.sigmoid(2 * u)).to(x.dtype)


def relu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """max(x, 0); the gradient at 0 is 0."""
    return torch.where(x > 0, x, 0.0)


def relu2(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """max(x, 0)^2 (So et al., 2021), computed in at least float32."""
    return relu(at_least_float32(x)).square().to(x.dtype)


def softcap(x: Float[Tensor, "..."], cap: float) -> Float[Tensor, "..."]:
    """cap * tanh(x / cap), which lies between -cap and cap (Gemma Team, 2024, section 2), in at least float32."""
    return (cap * torch.tanh(at_least_float32(x) / cap)).to(x.dtype)


@fast.path(fast.silu_gate)
def silu_gate(a: Float[Tensor, "..."], b: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """silu(a) * b, the gate of SwiGLU."""
    return silu(a) * b


@fast.path(fast.gelu_gate)
def gelu_gate(a: Float[Tensor, "..."], b: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """gelu_tanh(a) * b, the gate of GeGLU."""
    return gelu_tanh(a) * b


def mix(x: Int32[Tensor, "*shape"]) -> Int32[Tensor, "*shape"]:
    """Hash 32-bit words, as `lm.dropout.mix` does, in signed numbers: products wrap around to the same bits, and the
    shifts are masked."""
    x = (x ^ (x >> 16 & 0xFFFF)) * 0x7FEB352D
    x = (x ^ (x >> 15 & 0x1FFFF)) * (0x846CA68B - 2**32)
    return x ^ (x >> 16 & 0xFFFF)


@dataclass(frozen=True)
class DropoutKey:
    """What decides which elements a training step drops (`lm.dropout`)."""

    seed: int
    step: int
    rows_B: Int32[Tensor, " B"]
    """The index of each row in the step's whole batch."""
    place: str = ""

    def within(self, place: str) -> "DropoutKey":
        """Return the key of a place inside this place."""
        return replace(self, place=f"{self.place}{place}.")


@dataclass(frozen=True)
class Dropout:
    """Dropout at one place in the model: a share `rate` of the elements is dropped (Srivastava et al., 2014)."""

    rate: float
    key: DropoutKey
    place: str

    def mask(self, elements: Int32[Tensor, "*E"]) -> Bool[Tensor, "B *E"]:
        """Return which elements of each row are kept, for elements that are named by their index in the row."""
        key, rows = self.key, (-1,) + (1,) * elements.ndim
        first_B, second_B = (
            mix(key.rows_B ^ word).view(rows)
            for word in step_keys(key.seed, key.place + self.place, key.step)
        )
        return mix(mix(elements ^ first_B) ^ second_B) >= threshold(self.rate)

    def __call__(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        """Return x / (1 - rate), with zeros for the elements that are dropped."""
        elements = torch.arange(x[0].numel(), dtype=torch.int32, device=x.device)
        scaled = at_least_float32(x) * (1 / (1 - self.rate))
        return torch.where(self.mask(elements).view(x.shape), scaled, 0.0).to(x.dtype)


def dropout(
    x: Float[Tensor, "B ..."], rate: float, key: DropoutKey | None, place: str
) -> Float[Tensor, "B ..."]:
    """Apply `Dropout`; return x without a key."""
    return x if key is None or rate == 0.0 else Dropout(rate, key, place)(x)


@fast.path(fast.token_cross_entropy)
def token_cross_entropy(
    logits: Float[Tensor, "*B V"], targets: Int[Tensor, "*B"], z_loss: float = 0.0
) -> Float[Tensor, "*B"]:
    """-log softmax(logits)[target] of each position in nats, in at least float32.

    With a z-loss, add z_loss * log(Z)^2, where Z is the softmax's denominator (Chowdhery et al., 2022, section 5).
    """
    logits = at_least_float32(logits)
    largest = logits.amax(-1, keepdim=True).detach()
    shifted = logits - largest
    log_sum = torch.log(torch.exp(shifted).sum(-1))
    losses = log_sum - shifted.gather(-1, targets[..., None].long()).squeeze(-1)
    return losses + z_loss * (log_sum + largest.squeeze(-1)).square() if z_loss else losses


def cross_entropy(logits: Float[Tensor, "*B V"], targets: Int[Tensor, "*B"]) -> Float[Tensor, ""]:
    """Mean cross-entropy over all positions, in nats."""
    return token_cross_entropy(logits, targets).mean()


def global_norm(tensors: Iterable[Float[Tensor, "..."]]) -> Float[Tensor, ""]:
    """Euclidean norm of all tensors as one vector, in at least float32."""
    # Row by row first: on a CPU, torch's norm of millions of float32 numbers at once is off by 1e-4.
    rows = (torch.linalg.vector_norm(at_least_float32(t), dim=-1) for t in tensors)
    norms = [torch.linalg.vector_norm(row) for row in rows]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())


@torch.no_grad()
def clip_gradients(
    parameters: Iterable[Tensor], max_norm: float, norm: Float[Tensor, ""] | None = None
) -> Float[Tensor, ""]:
    """Scale the gradients in place by max_norm / (norm + 1e-6) if their global norm exceeds max_norm.

    Parameters without a gradient are skipped (Pascanu et al., 2013, algorithm 1).

    Args:
        norm: The global norm, if the caller knows it: a process of a mesh has only a share of the gradients.

    Returns:
        The global norm before clipping.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if norm is None:
        norm = global_norm(gradients)
    scale = torch.where(norm > max_norm, max_norm / (norm + 1e-6), 1.0)
    for gradient in gradients:
        gradient.mul_(scale.to(gradient.dtype))
    return norm
