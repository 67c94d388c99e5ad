"""Cross-entropy with a hand-written gradient."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jax_impl.dtypes import at_least_float32


def token_cross_entropy(logits: Float[Array, "*B V"], targets: Int[Array, "*B"]) -> Float[Array, "*B"]:
    """-log softmax(logits)[target] of each position, which keeps only the logits for the backward pass.

    Autodiff keeps the exponentials, too; the form's gradient overwrites the logits. With the other hand-written
    gradients it saves a quarter of a training step's temporary memory, as the compiled step's `memory_analysis()` says
    (docs/benchmarks.md).
    """
    # As one matrix, so that XLA can write the gradient over the logits.
    return _losses(logits.reshape(-1, logits.shape[-1]), targets.ravel()).reshape(targets.shape)


@jax.custom_vjp
def _losses(logits_NV: Array, targets_N: Array) -> Array:
    return _forward(logits_NV, targets_N)[0]


def _forward(logits_NV: Array, targets_N: Array) -> tuple[Array, tuple[Array, ...]]:
    shifted_NV = _shift(logits_NV)
    log_sum_N1 = jnp.log(jnp.exp(shifted_NV).sum(-1, keepdims=True))
    losses_N1 = log_sum_N1 - jnp.take_along_axis(shifted_NV, targets_N[:, None], axis=-1)
    return losses_N1.squeeze(-1), (logits_NV, targets_N, log_sum_N1)


def _backward(saved: tuple[Array, ...], g_N: Array) -> tuple[Array, None]:
    """g (softmax - one_hot)."""
    logits_NV, targets_N, log_sum_N1 = saved
    softmax_NV = jnp.exp(_shift(logits_NV) - log_sum_N1)
    ids_NV = jax.lax.broadcasted_iota(targets_N.dtype, logits_NV.shape, 1)
    one_hot_NV = (ids_NV == targets_N[:, None]).astype(softmax_NV.dtype)
    return (g_N[:, None] * (softmax_NV - one_hot_NV)).astype(logits_NV.dtype), None


def _shift(logits_NV: Array) -> Array:
    logits_NV = at_least_float32(logits_NV)
    return logits_NV - logits_NV.max(-1, keepdims=True)


_losses.defvjp(_forward, _backward)
