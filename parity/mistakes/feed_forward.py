"""Mistakes in the feed-forward layers: SwiGLU, and one activation between two linear layers."""

from collections.abc import Callable
from functools import partial

import numpy as np

from parity.mistakes.mistake import detach, mistake
from parity.oracle.functional import silu
from parity.oracle.gradients import Weights
from parity.oracle.layers import ACTIVATIONS, GATES, feed_forward, linear

of_feed_forward = partial(
    mistake,
    replaces="feed_forward",
    formula="W2 (silu(W1 x) * W3 x) for SwiGLU, otherwise W2 f(W1 x)",
    source="Shazeer, 2020, eq. 6; Vaswani et al., 2017, eq. 2",
)


def _w(weights: Weights, i: int, x: np.ndarray) -> np.ndarray:
    return linear(x, weights[f"w{i}.weight"], weights.get(f"w{i}.bias", 0.0))


def _swiglu(
    weights: Weights, x: np.ndarray, kind: str, combine: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return W2 combine(W1 x, W3 x) for SwiGLU; other kinds stay right."""
    if kind != "swiglu":
        return feed_forward(weights, x, kind)
    return _w(weights, 2, combine(_w(weights, 1, x), _w(weights, 3, x)))


def _activate(x: np.ndarray, kind: str) -> np.ndarray:
    return (ACTIVATIONS | GATES)[kind](x)


@of_feed_forward("SwiGLU: gate and value swapped")
def _(weights: Weights, x: np.ndarray, kind: str) -> np.ndarray:
    """SiLU is applied to W3 x in place of W1 x. Training hides that, but another model's weights do not fit."""
    return _swiglu(weights, x, kind, lambda a, b: a * silu(b))


@of_feed_forward("SwiGLU: no gate")
def _(weights: Weights, x: np.ndarray, kind: str) -> np.ndarray:
    """W3 x is left out: W2 silu(W1 x). W3 gets no gradient."""
    return _swiglu(weights, x, kind, lambda a, b: silu(a))


@of_feed_forward("SwiGLU: W1 in both places")
def _(weights: Weights, x: np.ndarray, kind: str) -> np.ndarray:
    """W1 x is multiplied by its own SiLU, and W3 is not used. W3 gets no gradient."""
    return _swiglu(weights, x, kind, lambda a, b: silu(a) * a)


@of_feed_forward("SwiGLU: SiLU of the product")
def _(weights: Weights, x: np.ndarray, kind: str) -> np.ndarray:
    """SiLU is applied to the product W1 x * W3 x. It belongs to W1 x alone."""
    return _swiglu(weights, x, kind, lambda a, b: silu(a * b))


@of_feed_forward("SwiGLU: SiLU of both factors")
def _(weights: Weights, x: np.ndarray, kind: str) -> np.ndarray:
    """SiLU is applied to W1 x and to W3 x. It belongs to W1 x alone."""
    return _swiglu(weights, x, kind, lambda a, b: silu(a) * silu(b))


@of_feed_forward("SwiGLU: sum for the product")
def _(weights: Weights, x: np.ndarray, kind: str) -> np.ndarray:
    """silu(W1 x) and W3 x are added, not multiplied. Nothing is gated."""
    return _swiglu(weights, x, kind, lambda a, b: silu(a) + b)


@of_feed_forward("SwiGLU: fused projection split by alternating rows")
def _(weights: Weights, x: np.ndarray, kind: str) -> np.ndarray:
    """W1 and W3 lie one after the other in a fused weight, which is split into even and odd rows.

    Gate and value then mix rows of both.
    """

    def combine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        fused = np.concatenate(np.broadcast_arrays(a, b), -1)
        return silu(fused[..., ::2]) * fused[..., 1::2]

    return _swiglu(weights, x, kind, combine)


@of_feed_forward("SwiGLU: a d_ff of its own")
def _(weights: Weights, x: np.ndarray, kind: str) -> np.ndarray:
    """Only the first 8/3 d_model hidden units are used, whatever d_ff is. The other rows get no gradient."""
    own = 8 * x.shape[-1] // 3
    return _swiglu(weights, x, kind, lambda a, b: silu(a) * b * (np.arange(a.shape[-1]) < own))


@of_feed_forward("SwiGLU: gate detached")
def _(weights: Weights, x: np.ndarray, kind: str) -> np.ndarray:
    """No gradient flows through silu(W1 x). The output is right, and W1 gets no gradient."""
    return _swiglu(weights, x, kind, lambda a, b: detach(silu(a)) * b)


@of_feed_forward("feed-forward: activation missing")
def _(weights: Weights, x: np.ndarray, kind: str) -> np.ndarray:
    """No activation is applied. Two linear layers in a row are one linear layer."""
    hidden = _w(weights, 1, x)
    return _w(weights, 2, hidden * _w(weights, 3, x) if kind == "swiglu" else hidden)


@of_feed_forward("feed-forward: activation of the output too")
def _(weights: Weights, x: np.ndarray, kind: str) -> np.ndarray:
    """The activation is applied once more, to the output. The layer can then hardly lower a hidden state."""
    return _activate(feed_forward(weights, x, kind), kind)


@of_feed_forward("feed-forward: activation of the output only")
def _(weights: Weights, x: np.ndarray, kind: str) -> np.ndarray:
    """The activation is applied after W2 in place of before it. The hidden layer is then linear."""
    hidden = _w(weights, 1, x)
    return _activate(_w(weights, 2, hidden * _w(weights, 3, x) if kind == "swiglu" else hidden), kind)


@of_feed_forward("feed-forward: residual added inside")
def _(weights: Weights, x: np.ndarray, kind: str) -> np.ndarray:
    """x is added to the layer's output. The block adds it as well, so it is counted twice."""
    return x + feed_forward(weights, x, kind)


@of_feed_forward("feed-forward: hidden bias missing")
def _(weights: Weights, x: np.ndarray, kind: str) -> np.ndarray:
    """The bias of the first linear layer is not added. It gets no gradient and stays as it was drawn."""
    return feed_forward({name: w for name, w in weights.items() if name != "w1.bias"}, x, kind)


@of_feed_forward("feed-forward: output bias missing")
def _(weights: Weights, x: np.ndarray, kind: str) -> np.ndarray:
    """The bias of the last linear layer is not added. It gets no gradient and stays as it was drawn."""
    return feed_forward({name: w for name, w in weights.items() if name != "w2.bias"}, x, kind)
