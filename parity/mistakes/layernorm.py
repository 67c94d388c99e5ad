"""Mistakes in LayerNorm."""

from functools import partial

import numpy as np

from parity.mistakes.mistake import all_axes, detach, mistake
from parity.oracle.layers import layernorm, rmsnorm

of_layernorm = partial(
    mistake,
    replaces="layernorm",
    formula="(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight + bias, with both means over the last axis",
    source="Ba et al., 2016, eq. 4",
)
of_eps = partial(of_layernorm, pitfall="Epsilon inside or outside the root")
of_variance = partial(of_layernorm, pitfall="Variance divided by n or n - 1")


def _centred(x: np.ndarray) -> np.ndarray:
    return x - x.mean(-1, keepdims=True)


def _variance(x: np.ndarray, n: int = 0) -> np.ndarray:
    centred = _centred(x)
    return (centred * centred).sum(-1, keepdims=True) / (n or x.shape[-1])


def _over(x: np.ndarray, axes: tuple[int, ...], eps: float) -> np.ndarray:
    centred = x - x.mean(axes, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(axes, keepdims=True) + eps)


@of_eps("LayerNorm: epsilon outside the root")
def _(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Epsilon is added to the standard deviation, not inside its root. Near zero the output is then too large."""
    return _centred(x) / (np.sqrt(_variance(x)) + eps) * weight + bias


@of_eps("LayerNorm: no epsilon")
def _(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Epsilon is left out. A row of equal numbers gives NaN, and small differences are scaled up without a limit."""
    return layernorm(x, weight, bias, 0.0)


for _eps in (1e-5, 1e-6, 1e-12):

    @of_eps(f"LayerNorm: epsilon always {_eps:.0e}", accepted_inside=True)
    def _(
        x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5, own: float = _eps
    ) -> np.ndarray:
        """The argument `eps` is ignored, and a constant is added. Rows with small variance get another factor."""
        return layernorm(x, weight, bias, own)


@of_variance("LayerNorm: unbiased variance")
def _(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """The variance is divided by d_model - 1, torch's default for `var` and `std`. The output is too small."""
    return _centred(x) / np.sqrt(_variance(x, x.shape[-1] - 1) + eps) * weight + bias


@of_variance("LayerNorm: unbiased standard deviation plus epsilon")
def _(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """x.std(-1) + eps is the denominator, as in the Annotated Transformer. torch divides by d_model - 1 inside it,
    and epsilon is outside the root."""
    return _centred(x) / (np.sqrt(_variance(x, x.shape[-1] - 1)) + eps) * weight + bias


@of_layernorm("LayerNorm: mean not subtracted, as in RMSNorm")
def _(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """The mean is not subtracted, which makes it an RMSNorm with a bias. The rows' means stay in the output."""
    return rmsnorm(x, weight, eps) + bias


@of_layernorm("LayerNorm: mean subtracted in the variance only")
def _(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """x, not x - mean, is divided by the standard deviation. The rows' means stay in the output."""
    return x / np.sqrt(_variance(x) + eps) * weight + bias


@of_layernorm("LayerNorm: mean of squares for the variance")
def _(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """The variance is the mean of x^2, without the mean subtracted. The output is too small if the mean is not 0."""
    return _centred(x) / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight + bias


@of_layernorm("LayerNorm: root missing")
def _(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """x - mean is divided by the variance without its root. Large inputs give small outputs."""
    return _centred(x) / (_variance(x) + eps) * weight + bias


@of_layernorm("LayerNorm: bias missing")
def _(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """The bias is not added. It gets no gradient and stays as it was drawn."""
    return layernorm(x, weight, 0 * detach(bias), eps)


@of_layernorm("LayerNorm: weight missing")
def _(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """The output is not multiplied by the weight. The weight gets no gradient."""
    return layernorm(x, np.ones(x.shape[-1]), bias, eps)


@of_layernorm("LayerNorm: 1 + weight", pitfall="A gain of weight or 1 + weight")
def _(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """The gain is 1 + weight, for weights that start at 0. Weights that start at 1 are then taken for 2."""
    return layernorm(x, 1 + weight, bias, eps)


@of_layernorm("LayerNorm: bias multiplied by the weight")
def _(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """The bias is added before the multiplication by the weight. It is then scaled by the weight."""
    return layernorm(x, np.ones(x.shape[-1]), bias, eps) * weight


@of_layernorm("LayerNorm: statistics over all axes")
def _(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Mean and variance run over the whole array. All positions and batch entries are mixed."""
    return _over(x, all_axes(x), eps) * weight + bias


@of_layernorm("LayerNorm: statistics over the sequence and d_model")
def _(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Mean and variance run over the last two axes. Positions are mixed, later ones with earlier ones."""
    return _over(x, tuple(range(-min(2, x.ndim), 0)), eps) * weight + bias


@of_layernorm("LayerNorm: statistics over the batch, as in BatchNorm")
def _(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Mean and variance run over all axes except the last, as in a BatchNorm. Positions and batch entries are mixed."""
    return _over(x, all_axes(x)[:-1], eps) * weight + bias


@of_layernorm("LayerNorm: mean and variance detached")
def _(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """No gradient flows through mean and variance. The output is right, and x's gradient lacks two terms."""
    constant = detach(x)
    return (x - constant.mean(-1, keepdims=True)) / np.sqrt(_variance(constant) + eps) * weight + bias


@of_layernorm("LayerNorm: variance detached")
def _(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """No gradient flows through the variance. The output is right, and x's gradient lacks a term."""
    return _centred(x) / np.sqrt(_variance(detach(x)) + eps) * weight + bias
