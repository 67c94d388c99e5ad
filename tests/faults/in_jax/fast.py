"""Faults in jax_impl/fast: gradients by hand, and compiler options."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import Array

from jax_impl.dtypes import at_least_float32
from tests.faults.fault import ATTENTION, JAX_BLOCKS, LINEAR, LOSS, REMAT, SOFTCAP, SWIGLU, fault


def _with_gradient(original: Any, backward: Callable[..., Any]) -> Any:
    """Return a function with another gradient. JAX binds gradients at import, so the function is made again."""
    broken = jax.custom_vjp(original.fun, nondiff_argnums=original.nondiff_argnums)
    broken.defvjp(original.fwd, backward)
    return broken


@fault(
    "the gradient of scores lacks the softmax's mean, in JAX", "jax_impl.fast.attention._attend", ATTENTION
)
def _(original: Any) -> Any:
    def backward(cap: float | None, saved: Any, g: Array) -> Any:
        Q, K, V, weights = saved
        if cap is not None:
            return original.bwd(cap, saved, g)
        d_scores = (weights * at_least_float32(g @ V.mT)).astype(Q.dtype) * Q.shape[-1] ** -0.5
        return d_scores @ K, d_scores.mT @ Q, *original.bwd(cap, saved, g)[2:]

    return _with_gradient(original, backward)


@fault("the gradient of queries lacks the scale, in JAX", "jax_impl.fast.attention._attend", ATTENTION)
def _(original: Any) -> Any:
    def backward(cap: float | None, saved: Any, g: Array) -> Any:
        d_Q, *others = original.bwd(cap, saved, g)
        return d_Q * d_Q.shape[-1] ** 0.5, *others

    return _with_gradient(original, backward)


BLOCK = "jax_impl.fast.blocks."


def _with_meeting(change: Callable[..., Any]) -> Callable[[Any], Any]:
    """Return a fault that changes the running state of a block of queries, in the forward pass only."""

    def replace(for_keys: Any) -> Any:
        def broken(self: Any, i: Array, meet: Any, state: Any) -> Any:
            is_forward = state[0].ndim == state[2].ndim
            return for_keys(self, i, partial(change, meet) if is_forward else meet, state)

        return broken

    return replace


@fault("the running sum is not scaled to the new maximum, in JAX", f"{BLOCK}_Blocks.for_keys", JAX_BLOCKS)
@_with_meeting
def _(meet: Any, j: Array, state: Any) -> Any:
    largest, total, _ = state
    larger, sums, out = meet(j, state)
    finite = jax.numpy.where(larger == -jax.numpy.inf, 0.0, larger)
    return larger, sums + total * (1 - jax.numpy.exp(largest - finite)), out


@fault("the mixed values are not scaled to the new maximum, in JAX", f"{BLOCK}_Blocks.for_keys", JAX_BLOCKS)
@_with_meeting
def _(meet: Any, j: Array, state: Any) -> Any:
    largest, _, out = state
    larger, sums, mixed = meet(j, state)
    finite = jax.numpy.where(larger == -jax.numpy.inf, 0.0, larger)
    return larger, sums, mixed + out * (1 - jax.numpy.exp(largest - finite))


@fault("weights are divided by the sum over the last block, in JAX", f"{BLOCK}_Blocks.for_keys", JAX_BLOCKS)
@_with_meeting
def _(meet: Any, j: Array, state: Any) -> Any:
    largest, total, out = state
    return meet(j, (largest, total * 0, out))


def _with_blocks(change: Callable[[Any], None]) -> Callable[[Any], Any]:
    """Return a fault that changes the blocks after they have been made."""

    def replace(init: Any) -> Any:
        def broken(self: Any, *arguments: Any) -> None:
            init(self, *arguments)
            change(self)

        return broken

    return replace


@fault("the last block of keys is skipped, in JAX", f"{BLOCK}_Blocks.__init__", JAX_BLOCKS)
@_with_blocks
def _(blocks: Any) -> None:
    blocks.stop_I = jax.numpy.maximum(blocks.stop_I - 1, 1)


@fault("the first block of keys is skipped, in JAX", f"{BLOCK}_Blocks.__init__", JAX_BLOCKS)
@_with_blocks
def _(blocks: Any) -> None:
    blocks.start_I = blocks.start_I + 1


@fault("a block whose first key alone attends is skipped, in JAX", f"{BLOCK}_Blocks.__init__", JAX_BLOCKS)
@_with_blocks
def _(blocks: Any) -> None:
    last_I = blocks.last_I.max(tuple(range(1, blocks.last_I.ndim)))
    blocks.stop_I = (last_I + blocks.s - 1) // blocks.s


@fault("zeros that fill up the last block count as keys, in JAX", f"{BLOCK}_Blocks.__init__", JAX_BLOCKS)
@_with_blocks
def _(blocks: Any) -> None:
    blocks.last_I = jax.numpy.where(blocks.last_I == blocks.S - 1, blocks.J * blocks.s, blocks.last_I)


@fault("every block of keys has the padding of the first, in JAX", f"{BLOCK}_Blocks.__init__", JAX_BLOCKS)
@_with_blocks
def _(blocks: Any) -> None:
    if blocks.present_J is not None:
        blocks.present_J = jax.numpy.broadcast_to(blocks.present_J[:1], blocks.present_J.shape)


@fault(
    "a block of keys has the dropout of the first block, in JAX", f"{BLOCK}_Blocks.drop_weights", JAX_BLOCKS
)
def _(drop_weights: Any) -> Any:
    return lambda self, weights, i, j: drop_weights(self, weights, i, j * 0)


@fault("a block of queries has the dropout of the first block", f"{BLOCK}_Blocks.drop_weights", JAX_BLOCKS)
def _(drop_weights: Any) -> Any:
    return lambda self, weights, i, j: drop_weights(self, weights, i * 0, j)


@fault("keys that nobody reads may be NaN, in JAX", f"{BLOCK}_is_read", JAX_BLOCKS)
def _(is_read: Any) -> Any:
    return lambda mask, K: jax.numpy.ones_like(is_read(mask, K))


def _with_saved(change: Callable[..., Any]) -> Callable[[Any], Any]:
    """Return a fault that changes the outputs and the inverse sums that the gradient of attention in blocks finds."""

    def replace(original: Any) -> Any:
        def backward(sizes: Any, cap: float | None, tree: Any, saved: Any, g: Array) -> Any:
            *inputs, out_I, (largest_I, inverse_I) = saved
            out_I, inverse_I = change(out_I, inverse_I)
            return original.bwd(sizes, cap, tree, (*inputs, out_I, (largest_I, inverse_I)), g)

        return _with_gradient(original, backward)

    return replace


@fault("the gradient of scores in blocks lacks the softmax's mean, in JAX", f"{BLOCK}_attend", JAX_BLOCKS)
@_with_saved
def _(out_I: Array, inverse_I: Array) -> Any:
    return out_I * 0, inverse_I


@fault("the incoming gradient is not divided by the sum, in JAX", f"{BLOCK}_attend", JAX_BLOCKS)
@_with_saved
def _(out_I: Array, inverse_I: Array) -> Any:
    return out_I, jax.numpy.ones_like(inverse_I)


@fault("long contexts count as one block, in JAX", "jax_impl.fast.attention._is_one_block", JAX_BLOCKS)
def _(_is_one_block: Any) -> Any:
    return lambda Q, K: True


@fault("the loss's gradient ignores what flows in, in JAX", "jax_impl.fast.loss._losses", LOSS)
def _(original: Any) -> Any:
    return _with_gradient(original, lambda saved, g_N: original.bwd(saved, jax.numpy.ones_like(g_N)))


@fault("the gate's gradient loses a term, in JAX", "jax_impl.fast.gate._silu_gradient", SWIGLU)
def _(original: Any) -> Any:
    return lambda x, g: g * jax.lax.logistic(x)


@fault("the gradient of a tall weight is not turned back, in JAX", "jax_impl.fast.product._project", LINEAR)
def _(original: Any) -> Any:
    def backward(saved: Any, g: Array) -> tuple[Array, Array]:
        d_x, d_weight = original.bwd(saved, g)
        d_out, d_in = d_weight.shape
        return d_x, d_weight.T.reshape(d_out, d_in) if d_in < d_out else d_weight

    return _with_gradient(original, backward)


@fault("XLA undoes remat", "jax_impl.fast.programs.training_options", REMAT)
def _(original: Any) -> Any:
    return lambda device: {}


@fault("capped scores flow back as if they had no cap, in JAX", "jax_impl.fast.cap.softcap_slope", SOFTCAP)
def _(original: Any) -> Any:
    return lambda capped, cap: jax.numpy.ones_like(capped)


@fault(
    "the gradient of GeGLU's gate forgets a sign, in JAX", "jax_impl.fast.gate._gelu_tanh_gradient", SWIGLU
)
def _(original: Any) -> Any:
    return lambda x, g: original(abs(x), g)
