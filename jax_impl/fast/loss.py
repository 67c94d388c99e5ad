"""Cross-entropy with a hand-written gradient."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jax_impl.dtypes import at_least_float32


def token_cross_entropy(
    logits: Float[Array, "*B V"], targets: Int[Array, "*B"], z_loss: float = 0.0
) -> Float[Array, "*B"]:
    """-log softmax(logits)[target] of each position, which keeps only the logits for the backward pass.

    Autodiff keeps the exponentials, too; the form's gradient overwrites the logits. With the other hand-written
    gradients it saves a quarter of a training step's temporary memory, as the compiled step's `memory_analysis()` says
    (docs/benchmarks.md).
    """
    # As one matrix, so that XLA can write the gradient over the logits.
    return _losses(logits.reshape(-1, logits.shape[-1]), targets.ravel(), z_loss).reshape(targets.shape)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _losses(logits_NV: Array, targets_N: Array, z_loss: float) -> Array:
    return _forward(logits_NV, targets_N, z_loss)[0]


def _forward(logits_NV: Array, targets_N: Array, z_loss: float) -> tuple[Array, tuple[Array, ...]]:
    shifted_NV, largest_N1 = _shift(logits_NV)
    log_sum_N1 = jnp.log(jnp.exp(shifted_NV).sum(-1, keepdims=True))
    losses_N1 = log_sum_N1 - jnp.take_along_axis(shifted_NV, targets_N[:, None], axis=-1)
    if z_loss:
        losses_N1 = losses_N1 + z_loss * jnp.square(log_sum_N1 + largest_N1)
    return losses_N1.squeeze(-1), (logits_NV, targets_N, log_sum_N1)


def _backward(z_loss: float, saved: tuple[Array, ...], g_N: Array) -> tuple[Array, None]:
    """g (softmax - one_hot), and g 2 z_loss log(Z) softmax for the z-loss."""
    logits_NV, targets_N, log_sum_N1 = saved
    shifted_NV, largest_N1 = _shift(logits_NV)
    softmax_NV = jnp.exp(shifted_NV - log_sum_N1)
    ids_NV = jax.lax.broadcasted_iota(targets_N.dtype, logits_NV.shape, 1)
    one_hot_NV = (ids_NV == targets_N[:, None]).astype(softmax_NV.dtype)
    d_logits_NV = softmax_NV - one_hot_NV
    if z_loss:
        d_logits_NV = d_logits_NV + 2 * z_loss * (log_sum_N1 + largest_N1) * softmax_NV
    return (g_N[:, None] * d_logits_NV).astype(logits_NV.dtype), None


def _shift(logits_NV: Array) -> tuple[Array, Array]:
    """Return the logits less the largest of their row, and the largest."""
    logits_NV = at_least_float32(logits_NV)
    largest_N1 = logits_NV.max(-1, keepdims=True)
    return logits_NV - largest_N1, largest_N1


_losses.defvjp(_forward, _backward)
