"""Functions without weights of their own: product, softmax, activations, dropout, cross-entropy, gradient clipping."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, PyTree, UInt32

from jax_impl import fast
from jax_impl.dtypes import at_least_float32
from lm.dropout import place_key, threshold


@fast.path(fast.project)
def project(x: Float[Array, "*B I"], weight: Float[Array, "O I"]) -> Float[Array, "*B O"]:
    """x W^T; the weight is cast to x's dtype."""
    return x @ weight.astype(x.dtype).T


def softmax(x: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """exp(x) / sum(exp(x)) along `axis`, computed in at least float32 and returned in x's dtype.

    The maximum is subtracted first, so that nothing overflows.
    """
    x32 = at_least_float32(x)
    exp = jnp.exp(x32 - jax.lax.stop_gradient(x32.max(axis, keepdims=True)))
    return (exp / exp.sum(axis, keepdims=True)).astype(x.dtype)


def silu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x * sigmoid(x) (Elfwing et al., 2017, eq. 1), computed in at least float32."""
    x32 = at_least_float32(x)
    return (x32 * jax.lax.logistic(x32)).astype(x.dtype)


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x Phi(x) with the normal distribution's Phi (Hendrycks and Gimpel, 2016), exact, in at least float32.

    Phi is computed by erfc, since 1 + erf cancels if x is negative.
    """
    x32 = at_least_float32(x)
    return (0.5 * x32 * jax.lax.erfc(-x32 * 0.5**0.5)).astype(x.dtype)


def gelu_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """0.5 x (1 + tanh(u)), u = sqrt(2 / pi) (x + 0.044715 x^3) (Hendrycks and Gimpel, 2016), in at least float32.

    Half of 1 + tanh(u) is computed as sigmoid(2 u), since 1 + tanh(u) cancels if x is negative.
    """
    x32 = at_least_float32(x)
    u = (2 / math.pi) ** 0.5 * (x32 + 0.044715 * x32 * x32 * x32)
    return (x32 * jax.lax.logistic(2 * u)).astype(x.dtype)


def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """max(x, 0); the gradient at 0 is 0."""
    return jnp.where(x > 0, x, 0.0)


def relu2(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """max(x, 0)^2 (So et al., 2021), computed in at least float32."""
    return jnp.square(relu(at_least_float32(x))).astype(x.dtype)


def softcap(x: Float[Array, "..."], cap: float) -> Float[Array, "..."]:
    """cap tanh(x / cap), which is near x if x is small and never beyond cap (Gemma Team, 2024, section 2).

    It is computed in at least float32 and returned in x's dtype.
    """
    return (cap * jnp.tanh(at_least_float32(x) / cap)).astype(x.dtype)


@fast.path(fast.silu_gate)
def silu_gate(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """silu(a) * b, the gate of SwiGLU."""
    return silu(a) * b


@fast.path(fast.gelu_gate)
def gelu_gate(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """gelu_tanh(a) * b, the gate of GeGLU."""
    return gelu_tanh(a) * b


def mix(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """Hash 32-bit words, as `lm.dropout.mix` does."""
    x = (x ^ x >> 16) * jnp.uint32(0x7FEB352D)
    x = (x ^ x >> 15) * jnp.uint32(0x846CA68B)
    return x ^ x >> 16


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DropoutKey:
    """What decides which elements a training step drops (`lm.dropout`)."""

    seed: int = field(metadata={"static": True})
    step: Int32[Array, ""]
    rows_B: Int32[Array, " B"]
    """The index of each row in the step's whole batch."""
    place: str = field(default="", metadata={"static": True})

    def within(self, place: str) -> "DropoutKey":
        """Return the key of a place inside this place."""
        return replace(self, place=f"{self.place}{place}.")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dropout:
    """Dropout at one place in the model: a share `rate` of the elements is dropped (Srivastava et al., 2014)."""

    rate: float = field(metadata={"static": True})
    key: DropoutKey
    place: str = field(metadata={"static": True})

    def mask(self, elements: UInt32[Array, "*E"]) -> Bool[Array, "B *E"]:
        """Return which elements of each row are kept, for elements that are named by their index in the row."""
        key, rows = self.key, (-1,) + (1,) * elements.ndim
        step, rows_B = key.step.astype(np.uint32), key.rows_B.astype(np.uint32)
        first_B, second_B = (
            mix(rows_B ^ mix(step ^ jnp.uint32(word))).reshape(rows)
            for word in place_key(key.seed, key.place + self.place)
        )
        return mix(mix(elements[None] ^ first_B) ^ second_B).astype(np.int32) >= threshold(self.rate)

    def __call__(self, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        """Return x / (1 - rate), with zeros for the elements that are dropped."""
        elements = jnp.arange(math.prod(x.shape[1:]), dtype=np.uint32)
        scaled = at_least_float32(x) * (1 / (1 - self.rate))
        return jnp.where(self.mask(elements).reshape(x.shape), scaled, 0.0).astype(x.dtype)


def dropout(
    x: Float[Array, "B ..."], rate: float, key: DropoutKey | None, place: str
) -> Float[Array, "B ..."]:
    """Apply `Dropout`; return x without a key."""
    return x if key is None or rate == 0.0 else Dropout(rate, key, place)(x)


@fast.path(fast.token_cross_entropy)
def token_cross_entropy(
    logits: Float[Array, "*B V"], targets: Int[Array, "*B"], z_loss: float = 0.0
) -> Float[Array, "*B"]:
    """-log softmax(logits)[target] of each position in nats, in at least float32.

    With a z-loss, add z_loss * log(Z)^2, where Z is the softmax's denominator (Chowdhery et al., 2022, section 5).
    """
    logits = at_least_float32(logits)
    largest = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    shifted = logits - largest
    log_sum = jnp.log(jnp.exp(shifted).sum(-1))
    losses = log_sum - jnp.take_along_axis(shifted, targets[..., None], axis=-1).squeeze(-1)
    return losses + z_loss * jnp.square(log_sum + largest.squeeze(-1)) if z_loss else losses


def cross_entropy(logits: Float[Array, "*B V"], targets: Int[Array, "*B"]) -> Float[Array, ""]:
    """Mean cross-entropy over all positions, in nats."""
    return token_cross_entropy(logits, targets).mean()


def global_norm(tree: PyTree[Float[Array, "..."]]) -> Float[Array, ""]:
    """Euclidean norm of all arrays as one vector, in at least float32."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(at_least_float32(x))) for x in jax.tree.leaves(tree)))


def clip_gradients(gradients: PyTree[Any], max_norm: float) -> tuple[PyTree[Any], Float[Array, ""]]:
    """Scale the gradients by max_norm / (norm + 1e-6) if their global norm exceeds max_norm.

    (Pascanu et al., 2013, algorithm 1.)

    Returns:
        The clipped gradients, and the global norm before clipping.
    """
    norm = global_norm(gradients)
    scale = jnp.where(norm > max_norm, max_norm / (norm + 1e-6), 1.0)
    return jax.tree.map(lambda g: g * scale.astype(g.dtype), gradients), norm
