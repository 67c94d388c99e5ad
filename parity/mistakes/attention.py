"""Mistakes of scaled dot-product attention and of its masks."""

from collections.abc import Callable

import numpy as np

from parity.mistakes.mistake import detach, mistake
from parity.oracle.attention import attention_scores, attention_weights, scaled_dot_product_attention

ATTENTION = "softmax(Q K^T / sqrt(d_k), over the keys that the query may see) V"
CAUSAL = "query t sees the keys s <= t"
VASWANI = "Vaswani et al., 2017, eq. 1"
MASKED = "Vaswani et al., 2017, section 3.2.3"
NOTHING = "a query that may see nothing yields zeros"

Weights = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]


def may_see(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return the mask, which is all True if there is none."""
    return np.ones((Q.shape[-2], K.shape[-2]), bool) if mask is None else mask


def softmax(scores: np.ndarray, axis: int = -1) -> np.ndarray:
    """Softmax as people write it: NaN if all scores are minus infinity."""
    with np.errstate(invalid="ignore"):
        exp = np.exp(scores - scores.real.max(axis, keepdims=True))
        return np.asarray(exp / exp.sum(axis, keepdims=True))


def masked_scores(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return the scores, minus infinity at the keys that a query may not see."""
    return np.where(may_see(Q, K, mask), attention_scores(Q, K), -np.inf)


def filled_scores(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return the scores, -1e9 at the keys that a query may not see."""
    return np.where(may_see(Q, K, mask), attention_scores(Q, K), -1e9)


@mistake("scores not scaled", "attention_scores", formula=ATTENTION, source=VASWANI)
def _(Q: np.ndarray, K: np.ndarray) -> np.ndarray:
    """The scores are not divided by sqrt(d_k). They are sqrt(d_k) times too large, so softmax is too sharp."""
    return np.asarray(Q @ K.mT)


@mistake("scores divided by d_k", "attention_scores", formula=ATTENTION, source=VASWANI)
def _(Q: np.ndarray, K: np.ndarray) -> np.ndarray:
    """The scores are divided by d_k in place of sqrt(d_k), or twice by its root. Softmax is then too flat."""
    return np.asarray(Q @ K.mT / Q.shape[-1])


@mistake("scores multiplied by sqrt(d_k)", "attention_scores", formula=ATTENTION, source=VASWANI)
def _(Q: np.ndarray, K: np.ndarray) -> np.ndarray:
    """The scores are multiplied by sqrt(d_k) and should be divided by it. Softmax picks almost a single key."""
    return np.asarray(Q @ K.mT * Q.shape[-1] ** 0.5)


@mistake(
    "scores divided by the root of the number of keys", "attention_scores", formula=ATTENTION, source=VASWANI
)
def _(Q: np.ndarray, K: np.ndarray) -> np.ndarray:
    """The scores are divided by the root of the keys' number, not of their width: the wrong axis gave the size.
    The output then depends on how long the sequence is."""
    return np.asarray(Q @ K.mT / K.shape[-2] ** 0.5)


@mistake("queries and keys swapped", "attention_scores", formula=ATTENTION, source=VASWANI)
def _(Q: np.ndarray, K: np.ndarray) -> np.ndarray:
    """The scores are K Q^T in place of Q K^T, or the two arguments (or projections) arrive in the other order.
    Row t then holds the scores of key t with all queries."""
    return attention_scores(K, Q) if Q.shape[-2] == K.shape[-2] else attention_scores(Q, K)


@mistake(
    "scores divided by the root of d_v", "scaled_dot_product_attention", formula=ATTENTION, source=VASWANI
)
def _(Q: np.ndarray, K: np.ndarray, V: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The scores are divided by the root of the values' width, not of the keys'. It shows only if d_v is not d_k."""
    return scaled_dot_product_attention(Q * (K.shape[-1] / V.shape[-1]) ** 0.5, K, V, mask)


@mistake("softmax over the queries", "attention_weights", formula=ATTENTION, source=VASWANI)
def _(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Softmax runs along the axis of the queries (-2), not along the axis of the keys (-1).
    The weights of a query do not sum to 1."""
    return softmax(masked_scores(Q, K, mask), -2)


@mistake("softmax over all scores of a head", "attention_weights", formula=ATTENTION, source=VASWANI)
def _(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """One softmax runs over all pairs of queries and keys together. All queries share a sum of 1."""
    scores = masked_scores(Q, K, mask)
    exp = np.exp(scores - scores.real.max((-2, -1), keepdims=True))
    return np.asarray(exp / exp.sum((-2, -1), keepdims=True))


@mistake("no softmax", "attention_weights", formula=ATTENTION, source=VASWANI)
def _(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The scaled scores themselves weight the values. The weights may be negative and do not sum to 1."""
    return np.where(may_see(Q, K, mask), attention_scores(Q, K), 0)


@mistake("attention weights not normalised", "attention_weights", formula=ATTENTION, source=VASWANI)
def _(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The exponentials are not divided by their sum. The output grows with the number of keys."""
    scores = masked_scores(Q, K, mask)
    return np.exp(
        scores - np.where(may_see(Q, K, mask).any(-1, keepdims=True), scores.real.max(-1, keepdims=True), 0)
    )


@mistake("scaled after the softmax", "attention_weights", formula=ATTENTION, source=VASWANI)
def _(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Softmax sees the unscaled scores, and its result is divided by sqrt(d_k). The weights sum to 1/sqrt(d_k)."""
    root = Q.shape[-1] ** 0.5
    return attention_weights(Q * root, K, mask) / root


@mistake("one added to the sum of the softmax", "attention_weights", formula=ATTENTION, source=VASWANI)
def _(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The exponentials are divided by 1 + their sum, as with a key that has a score and a value of zero.
    The weights of a query sum to less than 1."""
    exp = np.exp(masked_scores(Q, K, mask))
    return np.asarray(exp / (1 + exp.sum(-1, keepdims=True)))


@mistake("attention weights detached", "attention_weights", formula=ATTENTION, source=VASWANI)
def _(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The weights are detached from the graph, so no gradient reaches the queries and keys. The output is right."""
    return detach(attention_weights(Q, K, mask))


@mistake("mask ignored", "attention_weights", formula=ATTENTION, source=MASKED)
def _(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The mask is not applied, or a causal mask is missing. Every query sees every key, also those of the future."""
    return attention_weights(Q, K, None)


@mistake("masked scores of zero", "attention_weights", formula=ATTENTION, source=MASKED)
def _(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Masked scores become 0, because the scores are multiplied by the mask, are filled with 1e-9, or pass tril.
    exp(0) is 1, so a query still sees the masked keys."""
    return softmax(np.where(may_see(Q, K, mask), attention_scores(Q, K), 0))


@mistake("mask applied after the softmax", "attention_weights", formula=ATTENTION, source=MASKED)
def _(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The weights of masked keys are set to 0 after a softmax over all keys. The others sum to less than 1."""
    return np.where(may_see(Q, K, mask), attention_weights(Q, K, None), 0)


@mistake("mask added as zeros and ones", "attention_weights", formula=ATTENTION, source=MASKED)
def _(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The boolean mask is added to the scores as 0 and 1. A query prefers the keys that it may see, but sees all."""
    return softmax(attention_scores(Q, K) + may_see(Q, K, mask))


@mistake(
    "mask transposed",
    "attention_weights",
    formula=CAUSAL,
    source=MASKED,
    pitfall="A mask's True",
)
def _(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The mask's axes are swapped, or a causal mask is the upper triangle. A query sees itself and the future."""
    square = mask is not None and mask.shape[-1] == mask.shape[-2]
    return softmax(masked_scores(Q, K, mask.swapaxes(-1, -2) if square and mask is not None else mask))


@mistake("causal mask one key too far", "attention_weights", formula=CAUSAL, source=MASKED)
def _(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The causal mask is shifted by one, so a query also sees the next key. The model is shown its target."""
    if mask is None:
        return attention_weights(Q, K, mask)
    following = np.concatenate((mask[..., 1:, :], mask[..., -1:, :]), -2)
    return attention_weights(Q, K, mask | following)


def invert(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return the opposite of the mask."""
    return may_see(Q, K, None) if mask is None else ~mask


def hide_self(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return the mask without its diagonal."""
    return may_see(Q, K, mask) & ~np.eye(Q.shape[-2], K.shape[-2], dtype=bool)


_WITHOUT_KEYS: dict[str, Weights] = {
    "": attention_weights,
    ", NaN if nothing is left": lambda Q, K, mask: softmax(masked_scores(Q, K, mask)),
    ", the mean if nothing is left": lambda Q, K, mask: softmax(filled_scores(Q, K, mask)),
}
"""What implementations do with a query that sees nothing: zeros, minus infinity without care, and -1e9."""


def _inverted(weights: Weights) -> Weights:
    def variant(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """The mask is read the other way: a query sees exactly the keys that are masked from it.
        True means "may attend" here, and "is masked" in torch.nn.MultiheadAttention."""
        return weights(Q, K, invert(Q, K, mask))

    return variant


def _without_self(weights: Weights) -> Weights:
    def variant(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """The causal mask hides the diagonal, so a query does not see its own key. The first query sees nothing."""
        return weights(Q, K, hide_self(Q, K, mask))

    return variant


for _suffix, _weights in _WITHOUT_KEYS.items():
    mistake(
        f"mask inverted{_suffix}",
        "attention_weights",
        formula=ATTENTION,
        source=MASKED,
        pitfall="A mask's True",
    )(_inverted(_weights))
    mistake(f"causal mask without the diagonal{_suffix}", "attention_weights", formula=CAUSAL, source=MASKED)(
        _without_self(_weights)
    )


@mistake(
    "NaN for a query that sees nothing",
    "attention_weights",
    formula=NOTHING,
    source=MASKED,
    pitfall="A query that may see nothing",
)
def _(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """All scores of a query that sees nothing are minus infinity, and their softmax is 0/0.
    The NaN reaches every gradient and, in the next layer, every position."""
    return softmax(masked_scores(Q, K, mask))


@mistake(
    "masked scores of -1e9",
    "attention_weights",
    formula=NOTHING,
    source=MASKED,
    pitfall="Large negative masks",
)
def _(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Masked scores become a large negative number, not minus infinity.
    A query that sees nothing then takes the mean of all values."""
    return softmax(filled_scores(Q, K, mask))


@mistake(
    "-1e9 added to masked scores",
    "attention_weights",
    formula=NOTHING,
    source=MASKED,
    pitfall="Large negative masks",
)
def _(Q: np.ndarray, K: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """A large negative number is added to masked scores, which should be minus infinity.
    A query that sees nothing then attends as if it saw everything, up to the rounding of its scores."""
    return softmax(attention_scores(Q, K) + np.where(may_see(Q, K, mask), 0, -1e9))
