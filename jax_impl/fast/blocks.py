"""softmax(Q K^T / sqrt(d_k)) V with the scores of one block of queries and keys at a time.

A block of queries meets the blocks of keys in turn, with a running maximum and sum (Milakov and Gimelshein, 2018). The
gradient computes the scores again (Dao et al., 2022, algorithms 1 and 2). Memory grows with the context, not with its
square.

Queries have the axes (*L, R, T, K), keys and values (*L, S, K). R query heads share a key head; L holds the batch and
the key heads. Blocks lie along a first axis, I of queries and J of keys. A block of queries has R q rows, so that its
scores, (*L, R q, s), have no axis more than XLA's products.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jax_impl.dtypes import at_least_float32
from jax_impl.fast.cap import softcap, softcap_slope
from jax_impl.masks import Mask

State = tuple[Array, Array, Array]


def attend_in_blocks(
    sizes: tuple[int, int],
    Q: Array,
    K: Array,
    V: Array,
    mask: Mask | Array | None,
    drop: Any,
    cap: float | None = None,
) -> Array:
    """Return the output of attention, (*L, R, T, K).

    Args:
        sizes: The most queries and keys in a block.
        mask: Blocks that a `Mask` hides are skipped. A dense mask broadcasts against (*L, R, T, S).
        drop: A `Dropout` of attention weights; None outside training.
        cap: Soft cap of the scores; by default none.
    """
    # JAX makes trees of the arguments' types that hold no arrays, which the checker of shapes refuses.
    given, tree = jax.tree.flatten((mask, drop))
    return _attend(sizes, cap, tree, Q, K, V, given)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _attend(
    sizes: tuple[int, int], cap: float | None, tree: Any, Q: Array, K: Array, V: Array, given: list[Array]
) -> Array:
    return _forward(sizes, cap, tree, Q, K, V, given)[0]


def _forward(
    sizes: tuple[int, int], cap: float | None, tree: Any, Q: Array, K: Array, V: Array, given: list[Array]
) -> tuple[Array, Any]:
    blocks = _Blocks(sizes, cap, Q, K, V, *jax.tree.unflatten(tree, given))
    V_J = _split(blocks.V, blocks.J)

    def attend(_: None, i: Array) -> tuple[None, State]:
        q = blocks.Q_I[i]

        def meet(j: Array, state: State) -> State:
            largest, total, out = state
            scores = blocks.hide(blocks.scores(q, j), i, j)
            larger = jnp.maximum(largest, scores.max(-1, keepdims=True))
            exp, rescale = (jnp.exp(x - _finite(larger)) for x in (scores, largest))
            weighed = _product(blocks.drop_weights(exp, i, j).astype(V.dtype), V_J[j])
            return larger, total * rescale + exp.sum(-1, keepdims=True), out * rescale + weighed

        rows, dtype = q.shape[:-1], at_least_float32(q).dtype
        column = jnp.full((*rows, 1), -jnp.inf, dtype), jnp.zeros((*rows, 1), dtype)
        largest, total, out = blocks.for_keys(i, meet, (*column, jnp.zeros((*rows, V.shape[-1]), dtype)))
        # A query that may attend to nothing yields zeros.
        inverse = 1 / jnp.where(total == 0.0, 1.0, total)
        return None, (out * inverse, _finite(largest), inverse)

    _, (out_I, *saved) = lax.scan(attend, None, _places(len(blocks.Q_I)))
    return _join_queries(out_I, Q).astype(V.dtype), (Q, K, V, given, out_I, saved)


def _backward(
    sizes: tuple[int, int], cap: float | None, tree: Any, residuals: Any, g: Array
) -> tuple[Any, ...]:
    Q, K, V, given, out_I, (largest_I, inverse_I) = residuals
    blocks = _Blocks(sizes, cap, Q, K, V, *jax.tree.unflatten(tree, given))
    V_J, keys_J = _split(blocks.V.mT, blocks.J, -1), _split(blocks.K, blocks.J)
    # The weights are exponentials over their sum. The sum divides the incoming gradient instead, which is smaller.
    g_I = (_split_queries(at_least_float32(g), len(blocks.Q_I)) * inverse_I).astype(V.dtype)
    # The weights' mean gradient. An output that was rounded to bfloat16 would give another mean.
    mean_I = (at_least_float32(g_I) * out_I).sum(-1, keepdims=True)

    def attend(sums: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], Array]:
        q, g, mean, largest = (x[i] for x in (blocks.Q_I, g_I, mean_I, largest_I))
        q_transposed, g_transposed = q.mT, g.mT

        def meet(j: Array, state: State) -> State:
            d_K_J, d_V_J, d_q = state
            scores = blocks.scores(q, j)
            exp = jnp.exp(blocks.hide(scores, i, j) - largest)
            d_weights = blocks.drop_weights(_product(g, V_J[j]), i, j)
            d_scores = exp * (d_weights - mean)
            if cap is not None:
                d_scores = d_scores * softcap_slope(scores, cap)
            d_scores = d_scores.astype(Q.dtype)
            weights = blocks.drop_weights(exp, i, j).astype(V.dtype)
            return (
                _add_to_block(d_K_J, j, _product(q_transposed, d_scores)),
                _add_to_block(d_V_J, j, _product(g_transposed, weights)),
                d_q + _product(d_scores, keys_J[j]),
            )

        d_K_J, d_V_J, d_q = blocks.for_keys(i, meet, (*sums, jnp.zeros_like(at_least_float32(q))))
        return (d_K_J, d_V_J), d_q

    d_K_J, d_V_J = (jnp.zeros_like(at_least_float32(x_J)) for x_J in (blocks.K_J, V_J))
    (d_K_J, d_V_J), d_Q_I = lax.scan(attend, (d_K_J, d_V_J), _places(len(blocks.Q_I)))
    scale, S = Q.shape[-1] ** -0.5, K.shape[-2]
    d_Q, d_K, d_V = _join_queries(d_Q_I, Q) * scale, _join(d_K_J, S, -1).mT * scale, _join(d_V_J, S, -1).mT
    return d_Q.astype(Q.dtype), d_K.astype(K.dtype), d_V.astype(V.dtype), None


_attend.defvjp(_forward, _backward)


class _Blocks:
    """The scores of a block of queries i and a block of keys j."""

    def __init__(
        self,
        sizes: tuple[int, int],
        cap: float | None,
        Q: Array,
        K: Array,
        V: Array,
        mask: Mask | Array | None,
        drop: Any,
    ) -> None:
        (self.R, self.T), self.S, self.cap, self.drop = Q.shape[-3:-1], K.shape[-2], cap, drop
        count, self.J = (-(-length // size) for length, size in zip((self.T, self.S), sizes, strict=True))
        if mask is not None:
            is_read = _is_read(mask, K)
            K, V = (jnp.where(jnp.broadcast_to(is_read, x.shape), x, 0) for x in (K, V))
        self.K, self.V, self.Q_I, self.K_J = K, V, _split_queries(Q, count), _split(K.mT, self.J, -1)
        self.lead, self.q, self.s = Q.shape[:-3], self.Q_I.shape[-2] // self.R, self.K_J.shape[-1]
        ranges = mask if isinstance(mask, Mask) else Mask(jnp.zeros(self.T, int), jnp.full(self.T, self.S))
        # The queries that fill up the last block may attend to nothing, and no query to what fills up the keys.
        first = _with_heads(ranges.first_T, Q.ndim - 1)
        last = _with_heads(jnp.minimum(ranges.last_T, self.S - 1), Q.ndim - 1)
        first_I, last_I = (
            _split(x.astype(np.int32), count, -1, fill) for x, fill in ((first, self.S), (last, -1))
        )
        axes = tuple(range(1, first_I.ndim))
        self.start_I, self.stop_I = first_I.min(axes) // self.s, last_I.max(axes) // self.s + 1
        self.first_I, self.last_I = self._rows(first_I[..., None]), self._rows(last_I[..., None])
        self.present_J = self.dense = None
        if ranges.present_S is not None:
            self.present_J = _split(_with_heads(ranges.present_S, K.ndim - 1), self.J, -1)[..., None, :]
        elif mask is not None and not isinstance(mask, Mask):
            room = [(0, 0)] * (mask.ndim - 2) + [(0, count * self.q - self.T), (0, self.J * self.s - self.S)]
            dense = jnp.pad(mask, room)
            self.dense = dense.reshape(*(1,) * (Q.ndim - mask.ndim), *dense.shape)

    def for_keys(self, i: Array, meet: Callable[[Array, State], State], state: State) -> State:
        """Have a block of queries meet the blocks of keys that some of its queries may attend to."""
        return lax.fori_loop(self.start_I[i], self.stop_I[i], meet, state)

    def scores(self, q: Array, j: Array) -> Array:
        """Return the scores of a block's queries and keys j in at least float32, with their soft cap."""
        scores = _product(at_least_float32(q), at_least_float32(self.K_J[j])) * q.shape[-1] ** -0.5
        return scores if self.cap is None else softcap(scores, self.cap)

    def hide(self, scores: Array, i: Array, j: Array) -> Array:
        """Return a block's scores, -inf for keys that are hidden from the query."""
        key = (j * self.s + _places(self.s)).reshape((1,) * (scores.ndim - 1) + (-1,))
        is_seen = (self.first_I[i] <= key) & (key <= self.last_I[i])
        if self.present_J is not None:
            is_seen &= self.present_J[j]
        if self.dense is not None:
            rows = lax.dynamic_slice_in_dim(self.dense, i * self.q, self.q, -2)
            is_seen &= self._rows(lax.dynamic_slice_in_dim(rows, j * self.s, self.s, -1))
        return jnp.where(jnp.broadcast_to(is_seen, scores.shape), scores, -jnp.inf)

    def drop_weights(self, weights: Array, i: Array, j: Array) -> Array:
        """Return what dropout makes of a block of weights, or of their gradients."""
        if self.drop is None:
            return weights
        # An element's index in its sequence's weights, (..., R, T, S).
        query = _places(self.R)[:, None] * self.T + (i * self.q + _places(self.q))[None]
        heads = _places(math.prod(self.lead[1:])).reshape(*self.lead[1:], 1, 1)
        row = heads * (self.R * self.T) + query.reshape((1,) * (heads.ndim - 2) + (-1, 1))
        key = (j * self.s + _places(self.s)).reshape((1,) * (heads.ndim - 1) + (-1,))
        kept = self.drop.mask(row.astype(np.uint32) * np.uint32(self.S) + key.astype(np.uint32))
        return jnp.where(kept, weights * (1 / (1 - self.drop.rate)), 0.0)

    def _rows(self, x: Array) -> Array:
        """Repeat what all query heads of a group share, (..., 1, q, s), as rows of a block of scores."""
        *lead, _, q, s = x.shape
        return jnp.broadcast_to(x, (*lead, self.R, q, s)).reshape(*lead, -1, s)


def _places(count: int) -> Array:
    return jnp.arange(count, dtype=np.int32)


def _is_read(mask: Mask | Array, K: Array) -> Array:
    """Return which keys some query may attend to; it broadcasts against the keys."""
    if not isinstance(mask, Mask):
        is_read = mask.any((-3, -2))[..., None]
        return is_read.reshape(*(1,) * (K.ndim - is_read.ndim), *is_read.shape)
    S = K.shape[-2]
    first_NT, stop_NT = (x.reshape(-1, x.shape[-1]) for x in (mask.first_T, mask.last_T + 1))
    # Each query adds one reader from its first key on, and takes one away after its last.
    reader_NT, row_N1 = (first_NT < stop_NT).astype(int), jnp.arange(len(first_NT))[:, None]
    change_NS = jnp.zeros((len(first_NT), S + 1), int).at[row_N1, jnp.clip(first_NT, 0, S)].add(reader_NT)
    change_NS = change_NS.at[row_N1, jnp.clip(stop_NT, 0, S)].add(-reader_NT)
    is_read = (change_NS[:, :S].cumsum(-1) > 0).reshape(*mask.first_T.shape[:-1], S)
    if mask.present_S is not None:
        is_read &= mask.present_S
    return _with_heads(is_read, K.ndim - 1)[..., None]


def _with_heads(x: Array, ndim: int) -> Array:
    """Return what belongs to the places of sequences, (*B, T), with axes of size 1 for the heads."""
    return x.reshape(*x.shape[:-1], *(1,) * (ndim - x.ndim), x.shape[-1])


def _split(x: Array, count: int, axis: int = -2, fill: int = 0) -> Array:
    """Return `count` blocks of equal size along an axis, in a new first axis."""
    axis += x.ndim
    size = -(-x.shape[axis] // count)
    room = [(0, count * size - x.shape[axis] if a == axis else 0) for a in range(x.ndim)]
    blocks = jnp.pad(x, room, constant_values=fill).reshape(
        *x.shape[:axis], count, size, *x.shape[axis + 1 :]
    )
    return jnp.moveaxis(blocks, axis, 0)


def _join(blocks: Array, length: int, axis: int) -> Array:
    """Return the first `length` places along an axis of what `_split` has split."""
    axis += blocks.ndim - 1
    x = jnp.moveaxis(blocks, 0, axis)
    x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
    return lax.slice_in_dim(x, 0, length, axis=axis)


def _split_queries(x: Array, count: int) -> Array:
    """Return blocks of queries, (*L, R, T, K), with their R q rows along one axis: (I, *L, R q, K)."""
    blocks = _split(x, count)
    return blocks.reshape(*blocks.shape[:-3], -1, blocks.shape[-1])


def _join_queries(blocks: Array, Q: Array) -> Array:
    """Return what `_split_queries` has split, with the leading axes of Q."""
    R, T = Q.shape[-3:-1]
    return _join(blocks.reshape(*blocks.shape[:-2], R, -1, blocks.shape[-1]), T, -2)


def _add_to_block(blocks: Array, j: Array, x: Array) -> Array:
    """Add to one block. XLA does this in place; with `at[j].add` it would check every element's index."""
    return lax.dynamic_update_index_in_dim(blocks, blocks[j] + x, j, 0)


def _product(a: Array, b: Array) -> Array:
    """Return a b in at least float32."""
    return jnp.matmul(a, b, preferred_element_type=at_least_float32(a).dtype)


def _finite(largest: Array) -> Array:
    """Return the largest scores, 0 for a query that may attend to nothing."""
    return jnp.where(largest == -jnp.inf, 0.0, largest)
