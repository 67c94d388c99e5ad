"""Mistakes of multi-head attention: splitting, sharing, positioning and merging heads."""

from collections.abc import Callable
from typing import Any

import numpy as np

from parity.mistakes.mistake import mistake
from parity.oracle import attention, replaced
from parity.oracle.attention import (
    attention_scores,
    multihead_self_attention,
    position_heads,
    project,
    queries_keys_values,
    split_heads,
)
from parity.oracle.gradients import Weights

Heads = list[np.ndarray]
Positions = np.ndarray | None

SPLIT = "(T, D) -> (T, H, K) -> (H, T, K): head h is columns h K .. (h + 1) K"
MERGE = "(H, T, K) -> (T, H, K) -> (T, D)"
ORDER = "q = q_proj x, k = k_proj x, v = v_proj x"
OUTPUT = "output_proj concatenate(heads)"
ROPE = "queries and keys of each head are rotated by their token positions, after the split; values are not"
GROUPS = "query head h uses key and value head h // (num_heads / num_kv_heads)"
QK_NORM = "q = rope(rmsnorm(q, q_norm)), k = rope(rmsnorm(k, k_norm)), for each head"
HEADS = "head_h = attention(q_h, k_h, v_h), each over the positions"
VASWANI = "Vaswani et al., 2017, section 3.2.2"
SU = "Su et al., 2021, eq. 16"
AINSLIE = "Ainslie et al., 2023, section 2.2"
HENRY = "Henry et al., 2020, eq. 2"


@mistake(
    "heads split without a transpose",
    "split_heads",
    formula=SPLIT,
    source=VASWANI,
    pitfall="Heads without a transpose",
)
def split_without_transpose(x: np.ndarray, K: int) -> Heads:
    """(T, D) is reshaped to (H, T, K) at once, without (T, H, K) and a transpose.
    A head then holds a few whole positions in place of a part of every position."""
    *lead, T, D = x.shape
    return list(np.moveaxis(x.reshape(*lead, D // K, T, K), -3, 0))


@mistake("head as the inner axis of the split", "split_heads", formula=SPLIT, source=VASWANI)
def split_inner(x: np.ndarray, K: int) -> Heads:
    """(T, D) is reshaped to (T, K, H), "(k h)" in einops. Head h then takes every H-th column, not K in a row."""
    num_heads = x.shape[-1] // K
    return [x[..., h::num_heads] for h in range(num_heads)]


@mistake(
    "heads merged without a transpose",
    "merge_heads",
    formula=MERGE,
    source=VASWANI,
    pitfall="Heads without a transpose",
)
def merge_without_transpose(heads: Heads) -> np.ndarray:
    """(H, T, K) is reshaped to (T, D) at once, without a transpose to (T, H, K). Positions and heads are mixed up."""
    x = np.stack(np.broadcast_arrays(*heads), -3)
    *lead, H, T, K = x.shape
    return x.reshape(*lead, T, H * K)


@mistake("head as the inner axis of the merge", "merge_heads", formula=MERGE, source=VASWANI)
def merge_inner(heads: Heads) -> np.ndarray:
    """The heads' outputs are interleaved, "(k h)" in einops. The output projection then reads permuted columns."""
    x = np.stack(np.broadcast_arrays(*heads), -1)
    return x.reshape(*x.shape[:-2], -1)


@mistake(
    "heads split and merged without transposes",
    "multihead_self_attention",
    formula=SPLIT,
    source=VASWANI,
    pitfall="Heads without a transpose",
)
def _(*args: Any) -> np.ndarray:
    """(T, D) is reshaped to (H, T, K) and back, without a transpose.
    Positions attend only to the few positions that fall into their head."""
    with replaced("split_heads", split_without_transpose), replaced("merge_heads", merge_without_transpose):
        return multihead_self_attention(*args)


@mistake(
    "head as the inner axis of the split and of the merge",
    "multihead_self_attention",
    formula=SPLIT,
    source=VASWANI,
)
def _(*args: Any) -> np.ndarray:
    """The heads interleave, "(k h)" in einops, on both ways. It is a model of its own, but weights of others mean
    another thing in it."""
    with replaced("split_heads", split_inner), replaced("merge_heads", merge_inner):
        return multihead_self_attention(*args)


@mistake("one head in place of many", "multihead_self_attention", formula=HEADS, source=VASWANI)
def _(weights: Weights, x: np.ndarray, num_heads: int, *args: Any) -> np.ndarray:
    """num_heads is not used: one head attends with the whole width. All values share one set of weights."""
    narrow = weights["k_proj.weight"].shape[-2] < x.shape[-1] or "q_norm.weight" in weights
    return multihead_self_attention(weights, x, num_heads if narrow else 1, *args)


@mistake("scores divided by the root of d_model", "multihead_self_attention", formula=HEADS, source=VASWANI)
def _(weights: Weights, x: np.ndarray, num_heads: int, *args: Any) -> np.ndarray:
    """The scores are divided by sqrt(d_model) in place of sqrt(d_k). Softmax is too flat, by the root of the number of
    heads."""

    def scores(Q: np.ndarray, K: np.ndarray) -> np.ndarray:
        return attention_scores(Q, K) * (Q.shape[-1] / x.shape[-1]) ** 0.5

    with replaced("attention_scores", scores):
        return multihead_self_attention(weights, x, num_heads, *args)


def _over_heads(mask: Callable[[int], np.ndarray | None]) -> Callable[..., np.ndarray]:
    def variant(
        weights: Weights,
        x: np.ndarray,
        num_heads: int,
        _: np.ndarray,
        positions: Positions = None,
        theta: float = 10_000.0,
        eps: float = 1e-5,
        *args: Any,
    ) -> np.ndarray:
        q, k, v = (
            np.stack(np.broadcast_arrays(*heads), -2)
            for heads in attention.queries_keys_values(weights, x, num_heads, positions, theta, eps)
        )
        mixed = np.einsum("...hg,...gk->...hk", attention.attention_weights(q, k, mask(num_heads)), v)
        return attention.project(weights, "output", mixed.reshape(*mixed.shape[:-2], -1))

    return variant


@mistake("heads attend to heads", "multihead_self_attention", formula=HEADS, source=VASWANI)
def _(*args: Any) -> np.ndarray:
    """The axis of the heads stands where the positions should, because a transpose is missing.
    At each position the heads attend to each other, and no position sees another."""
    return _over_heads(lambda H: None)(*args)


@mistake("heads attend to earlier heads", "multihead_self_attention", formula=HEADS, source=VASWANI)
def _(*args: Any) -> np.ndarray:
    """The axis of the heads stands where the positions should, and the causal mask is made for that axis.
    At each position a head attends to itself and to the heads before it."""
    return _over_heads(lambda H: np.tri(H, dtype=bool))(*args)


@mistake("input added inside attention", "multihead_self_attention", formula=OUTPUT, source=VASWANI)
def _(weights: Weights, x: np.ndarray, *args: Any) -> np.ndarray:
    """Attention returns its input plus its output. The residual connection belongs to the block, which adds x again."""
    return x + multihead_self_attention(weights, x, *args)


def _projected(name: str, by: str, weights: Weights, x: np.ndarray) -> np.ndarray:
    """Apply another projection than that of `name` if both have one shape."""
    like = weights[f"{name}_proj.weight"].shape[-2:] == weights[f"{by}_proj.weight"].shape[-2:]
    return project(weights, by if like else name, x)


@mistake("keys and values swapped", "project", formula=ORDER, source=VASWANI)
def _(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """k_proj projects the values and v_proj the keys, as after an unpacking in another order.
    The scores come from what should be mixed."""
    return _projected(name, {"k": "v", "v": "k"}.get(name, name), weights, x)


@mistake("queries and values swapped", "project", formula=ORDER, source=VASWANI)
def _(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """q_proj projects the values and v_proj the queries, as after an unpacking in another order.
    The scores come from what should be mixed."""
    return _projected(name, {"q": "v", "v": "q"}.get(name, name), weights, x)


@mistake("q_proj used for the keys", "project", formula=ORDER, source=VASWANI)
def _(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """The keys are projected by q_proj, a slip of copying. k_proj has no part in the output and gets no gradient."""
    return _projected(name, {"k": "q"}.get(name, name), weights, x)


@mistake("k_proj used for the values", "project", formula=ORDER, source=VASWANI)
def _(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """The values are projected by k_proj, a slip of copying. v_proj has no part in the output and gets no gradient."""
    return _projected(name, {"v": "k"}.get(name, name), weights, x)


@mistake("output projection missing", "project", formula=OUTPUT, source=VASWANI)
def _(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """The merged heads are returned without the output projection. Its weight has no part in the output."""
    return x if name == "output" else project(weights, name, x)


@mistake("output projection transposed", "project", formula=OUTPUT, source=VASWANI)
def _(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """The output projection multiplies by its weight's transpose. The weight is square, so no shape tells."""
    if name == "output":
        weights = {**weights, "output_proj.weight": weights["output_proj.weight"].swapaxes(-1, -2)}
    return project(weights, name, x)


@mistake("query, key and value projections transposed", "project", formula=ORDER, source=VASWANI)
def _(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """The three projections multiply by their weights' transposes, x W in place of x W^T.
    The weights are square, so no shape tells."""
    weight = weights[f"{name}_proj.weight"]
    if name != "output" and weight.shape[-1] == weight.shape[-2]:
        weights = {**weights, f"{name}_proj.weight": weight.swapaxes(-1, -2)}
    return project(weights, name, x)


@mistake(
    "biases of the projections ignored",
    "project",
    formula="q_proj x + b, also for k, v and output",
    source=VASWANI,
)
def _(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """The projections' biases are not added. They get no gradient."""
    return project({key: w for key, w in weights.items() if not key.endswith("bias")}, name, x)


@mistake("packed projection split by heads", "multihead_self_attention", formula=ORDER, source=VASWANI)
def _(weights: Weights, x: np.ndarray, num_heads: int, *args: Any) -> np.ndarray:
    """A packed projection whose rows are all of q, then k, then v is split as if each head had its q, k and v together.
    Every head then gets rows of others."""
    D, K = x.shape[-1], x.shape[-1] // num_heads
    if weights["k_proj.weight"].shape[-2] < D:
        return multihead_self_attention(weights, x, num_heads, *args)
    mixed = dict(weights)
    for kind, axis in (("weight", -2), ("bias", -1)):
        parts = [weights[name] for name in (f"{n}_proj.{kind}" for n in "qkv") if name in weights]
        if len(parts) == 3:
            packed = np.moveaxis(np.concatenate(np.broadcast_arrays(*parts), axis), axis, 0)
            by_head = packed.reshape(num_heads, 3, K, *packed.shape[1:])
            for i, n in enumerate("qkv"):
                mixed[f"{n}_proj.{kind}"] = np.moveaxis(by_head[:, i].reshape(D, *packed.shape[1:]), 0, axis)
    return multihead_self_attention(mixed, x, num_heads, *args)


@mistake("RoPE missing", "position_heads", formula=ROPE, source=SU)
def _(weights: Weights, name: str, heads: Heads, positions: Positions, theta: float, eps: float) -> Heads:
    """Neither queries nor keys are rotated, or both by the number of their head, which cancels.
    Attention does not know the order of the positions."""
    return position_heads(weights, name, heads, None, theta, eps)


@mistake("RoPE on the queries only", "position_heads", formula=ROPE, source=SU)
def _(weights: Weights, name: str, heads: Heads, positions: Positions, theta: float, eps: float) -> Heads:
    """The keys are not rotated. The scores then depend on the queries' positions, not on distances."""
    return position_heads(weights, name, heads, positions if name == "q" else None, theta, eps)


@mistake("RoPE on the keys only", "position_heads", formula=ROPE, source=SU)
def _(weights: Weights, name: str, heads: Heads, positions: Positions, theta: float, eps: float) -> Heads:
    """The queries are not rotated. The scores then depend on the keys' positions, not on distances."""
    return position_heads(weights, name, heads, positions if name == "k" else None, theta, eps)


@mistake("RoPE over the whole width", "position_heads", formula=ROPE, source=SU)
def _(weights: Weights, name: str, heads: Heads, positions: Positions, theta: float, eps: float) -> Heads:
    """Queries and keys are rotated before they are split into heads. The frequencies then fall over d_model, and each
    head has a band of its own."""
    heads = position_heads(weights, name, heads, None, theta, eps)
    if positions is None:
        return heads
    whole = np.concatenate(np.broadcast_arrays(*heads), -1)
    return split_heads(attention.rope(whole, positions, theta), heads[0].shape[-1])


@mistake(
    "RoPE's frequencies of d_model",
    "queries_keys_values",
    formula="theta^(-2p/d_head)",
    source="Su et al., 2021, eq. 15",
)
def _(
    weights: Weights, x: np.ndarray, num_heads: int, positions: Positions, theta: float, eps: float
) -> tuple[Heads, Heads, Heads]:
    """The heads are rotated by theta^(-2p/d_model), the first frequencies of a table made for d_model.
    The exponent counts the pairs of the whole width, not those of a head."""
    return queries_keys_values(weights, x, num_heads, positions, theta ** (1 / num_heads), eps)


@mistake("RoPE on the values", "queries_keys_values", formula=ROPE, source=SU)
def _(
    weights: Weights, x: np.ndarray, num_heads: int, positions: Positions, theta: float, eps: float
) -> tuple[Heads, Heads, Heads]:
    """The values are rotated as well. The output then depends on absolute positions."""
    q, k, v = queries_keys_values(weights, x, num_heads, positions, theta, eps)
    return q, k, v if positions is None else [attention.rope(head, positions, theta) for head in v]


@mistake(
    "grouped heads by modulo", "share_heads", formula=GROUPS, source=AINSLIE, pitfall="Grouped heads in a row"
)
def _(heads: Heads, num_heads: int) -> Heads:
    """Query head h uses key head h % num_kv_heads, as after repeat (tile) in place of repeat_interleave.
    Neighbours should share a key head."""
    return [heads[h % len(heads)] for h in range(num_heads)]


@mistake("first key and value head for all", "share_heads", formula=GROUPS, source=AINSLIE)
def _(heads: Heads, num_heads: int) -> Heads:
    """All query heads use the first key and value head. The others have no part in the output."""
    return heads if len(heads) == num_heads else heads[:1] * num_heads


@mistake("query and key norms after RoPE", "position_heads", formula=QK_NORM, source=HENRY)
def _(weights: Weights, name: str, heads: Heads, positions: Positions, theta: float, eps: float) -> Heads:
    """Queries and keys are rotated first, then normalised. The gain then scales rotated pairs unequally, so the scores
    no longer depend on distances alone."""
    return position_heads(
        weights, name, position_heads({}, name, heads, positions, theta, eps), None, theta, eps
    )


@mistake("query and key norms over all heads", "position_heads", formula=QK_NORM, source=HENRY)
def _(weights: Weights, name: str, heads: Heads, positions: Positions, theta: float, eps: float) -> Heads:
    """The norm divides by the root mean square over all heads. Each head has a root of its own."""
    if f"{name}_norm.weight" in weights:
        whole = np.concatenate(np.broadcast_arrays(*heads), -1)
        root = np.sqrt((whole * whole).sum(-1, keepdims=True) / whole.shape[-1] + eps)
        heads = [head / root * weights[f"{name}_norm.weight"] for head in heads]
    return position_heads({}, name, heads, positions, theta, eps)


@mistake("query and key norms missing", "position_heads", formula=QK_NORM, source=HENRY)
def _(weights: Weights, name: str, heads: Heads, positions: Positions, theta: float, eps: float) -> Heads:
    """Queries and keys are not normalised. The gains get no gradient."""
    return position_heads({}, name, heads, positions, theta, eps)


@mistake("norm of the queries only", "position_heads", formula=QK_NORM, source=HENRY)
def _(weights: Weights, name: str, heads: Heads, positions: Positions, theta: float, eps: float) -> Heads:
    """The keys are not normalised. The scores then grow with the keys."""
    return position_heads(weights if name == "q" else {}, name, heads, positions, theta, eps)


@mistake("norm of the keys only", "position_heads", formula=QK_NORM, source=HENRY)
def _(weights: Weights, name: str, heads: Heads, positions: Positions, theta: float, eps: float) -> Heads:
    """The queries are not normalised. The scores then grow with the queries."""
    return position_heads(weights if name == "k" else {}, name, heads, positions, theta, eps)


@mistake("gains of query and key norms swapped", "position_heads", formula=QK_NORM, source=HENRY)
def _(weights: Weights, name: str, heads: Heads, positions: Positions, theta: float, eps: float) -> Heads:
    """Queries are scaled by the keys' gain and keys by the queries'.
    It shows only with RoPE, since a score without it multiplies both gains."""
    if f"{name}_norm.weight" in weights:
        weights = {f"{name}_norm.weight": weights["k_norm.weight" if name == "q" else "q_norm.weight"]}
    return position_heads(weights, name, heads, positions, theta, eps)
