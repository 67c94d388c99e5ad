"""Functions without weights: softmax, activations, dropout, cross-entropy, gradient clipping."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, PyTree, UInt32

from lm.dropout import place_key, threshold


def at_least_float32(x: Array) -> Array:
    """`x` in float32, or as it is where it is wider: norms, softmax and loss never compute in less."""
    return x.astype(np.promote_types(x.dtype, np.float32))


def softmax(x: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """exp(x) / sum(exp(x)) along `axis`; the maximum is subtracted first, so that nothing overflows.

    Computed in at least float32, returned in x's dtype.
    """
    x32 = at_least_float32(x)
    exp = jnp.exp(x32 - jax.lax.stop_gradient(x32.max(axis, keepdims=True)))
    return (exp / exp.sum(axis, keepdims=True)).astype(x.dtype)


def silu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x * sigmoid(x) (Elfwing et al., 2017, eq. 1), computed in at least float32."""
    x32 = at_least_float32(x)
    return (x32 * jax.lax.logistic(x32)).astype(x.dtype)


@jax.custom_vjp
def gated(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """silu(a) b, which keeps only a and b for its gradient."""
    return silu(a) * b


def _gated_gradient(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    # Without the barrier XLA would find that the forward pass has the same sigmoid, and keep that.
    a, b, g = jax.lax.optimization_barrier((*kept, g))
    a32, d_silu = at_least_float32(a), at_least_float32(g * b)
    sigmoid = jax.lax.logistic(a32)
    return (d_silu * sigmoid * (1 + a32 * (1 - sigmoid))).astype(a.dtype), g * silu(a)


gated.defvjp(lambda a, b: (silu(a) * b, (a, b)), _gated_gradient)


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x Phi(x), Phi the normal distribution's (Hendrycks and Gimpel, 2016), exact, in at least float32.

    By erfc, since 1 + erf cancels where x is negative.
    """
    x32 = at_least_float32(x)
    return (0.5 * x32 * jax.lax.erfc(-x32 * 0.5**0.5)).astype(x.dtype)


def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """max(x, 0); the gradient at 0 is 0."""
    return jnp.where(x > 0, x, 0.0)


def mix(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """`lm.dropout.mix`."""
    x = (x ^ x >> 16) * jnp.uint32(0x7FEB352D)
    x = (x ^ x >> 15) * jnp.uint32(0x846CA68B)
    return x ^ x >> 16


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Draw:
    """What decides which elements a training step drops (`lm.dropout`)."""

    seed: int = field(metadata={"static": True})
    step: Int32[Array, ""]
    rows_B: Int32[Array, " B"]
    """The index of each row in the step's whole batch."""
    place: str = field(default="", metadata={"static": True})

    def at(self, place: str) -> "Draw":
        """The draw of a place inside of this one."""
        return replace(self, place=f"{self.place}{place}.")


def dropout(x: Float[Array, "B ..."], rate: float, draw: Draw | None, place: str) -> Float[Array, "B ..."]:
    """x / (1 - rate), but for a share `rate` of zeros; x itself where nothing is drawn (Srivastava et al., 2014)."""
    if draw is None or rate == 0.0:
        return x
    step, rows_B = draw.step.astype(np.uint32), draw.rows_B.astype(np.uint32)
    first_B1, second_B1 = (
        mix(rows_B ^ mix(step ^ jnp.uint32(key)))[:, None] for key in place_key(draw.seed, draw.place + place)
    )
    elements = jnp.arange(math.prod(x.shape[1:]), dtype=np.uint32)[None, :]
    kept = mix(mix(elements ^ first_B1) ^ second_B1).astype(np.int32) >= threshold(rate)
    return jnp.where(kept.reshape(x.shape), at_least_float32(x) * (1 / (1 - rate)), 0.0).astype(x.dtype)


def token_cross_entropy(logits: Float[Array, "*B V"], targets: Int[Array, "*B"]) -> Float[Array, "*B"]:
    """-log softmax(logits)[target] of each position in nats, in at least float32."""
    # As one matrix, so that XLA can write the gradient over the logits.
    return _token_cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.ravel()).reshape(targets.shape)


@jax.custom_vjp
def _token_cross_entropy(logits_NV: Array, targets_N: Array) -> Array:
    return _token_cross_entropy_and_keep(logits_NV, targets_N)[0]


def _token_cross_entropy_and_keep(logits_NV: Array, targets_N: Array) -> tuple[Array, tuple[Array, ...]]:
    shifted_NV = _shifted(logits_NV)
    log_sum_N1 = jnp.log(jnp.exp(shifted_NV).sum(-1, keepdims=True))
    losses_N1 = log_sum_N1 - jnp.take_along_axis(shifted_NV, targets_N[:, None], axis=-1)
    return losses_N1.squeeze(-1), (logits_NV, targets_N, log_sum_N1)


def _token_cross_entropy_gradient(kept: tuple[Array, ...], g_N: Array) -> tuple[Array, None]:
    """g (softmax - one_hot), of the logits alone: by autodiff XLA keeps the exponentials too, and scatters."""
    logits_NV, targets_N, log_sum_N1 = kept
    softmax_NV = jnp.exp(_shifted(logits_NV) - log_sum_N1)
    ids_NV = jax.lax.broadcasted_iota(targets_N.dtype, logits_NV.shape, 1)
    one_hot_NV = (ids_NV == targets_N[:, None]).astype(softmax_NV.dtype)
    return (g_N[:, None] * (softmax_NV - one_hot_NV)).astype(logits_NV.dtype), None


def _shifted(logits_NV: Array) -> Array:
    logits_NV = at_least_float32(logits_NV)
    return logits_NV - logits_NV.max(-1, keepdims=True)


_token_cross_entropy.defvjp(_token_cross_entropy_and_keep, _token_cross_entropy_gradient)


def cross_entropy(logits: Float[Array, "*B V"], targets: Int[Array, "*B"]) -> Float[Array, ""]:
    """Mean cross-entropy over all positions, in nats."""
    return token_cross_entropy(logits, targets).mean()


def global_norm(tree: PyTree[Float[Array, "..."]]) -> Float[Array, ""]:
    """Euclidean norm of all arrays as one vector, in at least float32."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(at_least_float32(x))) for x in jax.tree.leaves(tree)))


def clip_gradients(gradients: PyTree[Any], max_norm: float) -> tuple[PyTree[Any], Float[Array, ""]]:
    """Scale the gradients by max_norm / (norm + 1e-6) where their global norm exceeds max_norm.

    (Pascanu et al., 2013, algorithm 1.)

    Returns:
        The clipped gradients, and the global norm before clipping.
    """
    norm = global_norm(gradients)
    scale = jnp.where(norm > max_norm, max_norm / (norm + 1e-6), 1.0)
    return jax.tree.map(lambda g: g * scale.astype(g.dtype), gradients), norm
