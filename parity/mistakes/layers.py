"""Mistakes in the layers with weights: linear, embedding, RMSNorm."""

import math
from functools import partial

import numpy as np

from parity.mistakes.mistake import all_axes, detach, mistake
from parity.oracle.layers import embedding, linear, rmsnorm

Bias = np.ndarray | float

of_linear = partial(
    mistake,
    replaces="linear",
    formula="y = x W^T (+ b), with W of shape (d_out, d_in)",
    source="the course's section 3.4.2; torch.nn.Linear",
    pitfall="Weights of shape (d_out, d_in) or (d_in, d_out)",
)


@of_linear("linear: square weight not transposed")
def _(x: np.ndarray, weight: np.ndarray, bias: Bias = 0.0) -> np.ndarray:
    """x W is computed in place of x W^T. Only a square weight lets that pass."""
    square = weight.shape[-1] == weight.shape[-2]
    return linear(x, weight.swapaxes(-1, -2) if square else weight, bias)


@of_linear("linear: weight reshaped, not transposed")
def _(x: np.ndarray, weight: np.ndarray, bias: Bias = 0.0) -> np.ndarray:
    """The weight is reshaped to (d_in, d_out) in place of transposed. The shapes fit, and the rows are mixed."""
    *lead, d_out, d_in = weight.shape
    return linear(x, weight.reshape(*lead, d_in, d_out).swapaxes(-1, -2), bias)


@of_linear("linear: bias missing")
def _(x: np.ndarray, weight: np.ndarray, bias: Bias = 0.0) -> np.ndarray:
    """The bias is not added. It gets no gradient and stays as it was drawn."""
    return linear(x, weight)


@of_linear("linear: scaled by 1 / sqrt(d_in)")
def _(x: np.ndarray, weight: np.ndarray, bias: Bias = 0.0) -> np.ndarray:
    """The product is divided by sqrt(d_in), which belongs to the weight's initial values. The output is too small."""
    return linear(x, weight / math.sqrt(weight.shape[-1]), bias)


@of_linear("linear: input detached")
def _(x: np.ndarray, weight: np.ndarray, bias: Bias = 0.0) -> np.ndarray:
    """No gradient flows back to the input. The output is right, and the layers before get no gradient."""
    return linear(detach(x), weight, bias)


of_embedding = partial(
    mistake,
    replaces="embedding",
    formula="row token_ids[i] of the weight (vocab_size, d_model)",
    source="Vaswani et al., 2017, section 3.4; the course's section 3.4.3",
)


@of_embedding("embedding: ids counted from 1")
def _(weight: np.ndarray, token_ids: np.ndarray) -> np.ndarray:
    """Row id - 1 is taken in place of row id. Id 0 takes the last row."""
    return embedding(weight, (token_ids - 1) % weight.shape[-2])


@of_embedding("embedding: row 0 is padding")
def _(weight: np.ndarray, token_ids: np.ndarray) -> np.ndarray:
    """Id 0 is taken for padding and gives zeros. Token 0 is then never learned."""
    return embedding(weight, token_ids) * (token_ids != 0)[..., None]


@of_embedding("embedding: scaled by sqrt(d_model)", pitfall="Embeddings times sqrt(d_model)")
def _(weight: np.ndarray, token_ids: np.ndarray) -> np.ndarray:
    """The rows are multiplied by sqrt(d_model), as in Gemma. The course's model has no such factor."""
    return embedding(weight, token_ids) * math.sqrt(weight.shape[-1])


@of_embedding("embedding: table reshaped")
def _(weight: np.ndarray, token_ids: np.ndarray) -> np.ndarray:
    """The table is reshaped to (d_model, vocab_size) in place of transposed. The shapes fit, and the rows are mixed."""
    *lead, V, D = weight.shape
    return embedding(weight.reshape(*lead, D, V).swapaxes(-1, -2), token_ids)


@of_embedding("embedding: rows of length 1")
def _(weight: np.ndarray, token_ids: np.ndarray) -> np.ndarray:
    """Each row is divided by its length. Rows of all lengths look equal."""
    rows = embedding(weight, token_ids)
    return rows / np.sqrt((rows * rows).sum(-1, keepdims=True))


@of_embedding("embedding: a repeated id gets one place's gradient", pitfall="Repeated ids")
def _(weight: np.ndarray, token_ids: np.ndarray) -> np.ndarray:
    """Gradients are assigned to rows, not added. A row whose id is repeated gets only the last place's gradient."""
    flat = token_ids.ravel().tolist()
    last = np.array([token not in flat[i + 1 :] for i, token in enumerate(flat)]).reshape(*token_ids.shape, 1)
    rows = embedding(weight, token_ids)
    return np.where(last, rows, detach(rows))


of_rmsnorm = partial(
    mistake,
    replaces="rmsnorm",
    formula="x / sqrt(mean(x^2) + eps) * weight, with the mean over the last axis",
    source="Zhang and Sennrich, 2019, eq. 4; the course's section 3.5.1",
)
of_eps = partial(of_rmsnorm, pitfall="Epsilon inside or outside the root")


def _mean_square(x: np.ndarray) -> np.ndarray:
    return (x * x).mean(-1, keepdims=True)


@of_eps("RMSNorm: epsilon outside the root")
def _(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Epsilon is added to the root, not inside it. Near zero the output is then larger by a factor of up to 300."""
    return x / (np.sqrt(_mean_square(x)) + eps) * weight


@of_eps("RMSNorm: no epsilon")
def _(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Epsilon is left out. A row of zeros gives NaN, and small rows are scaled up without a limit."""
    return x / np.sqrt(_mean_square(x)) * weight


@of_eps("RMSNorm: epsilon added to the sum of squares")
def _(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Epsilon is added to the sum, before the division by d_model. It is then too small by a factor of d_model."""
    return rmsnorm(x, weight, eps / x.shape[-1])


@of_eps("RMSNorm: epsilon squared")
def _(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Epsilon's square is added to the mean square. Small rows are then scaled up too far."""
    return rmsnorm(x, weight, eps * eps)


@of_eps("RMSNorm: epsilon as a lower bound")
def _(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """The mean square is raised to epsilon if it is smaller, and epsilon is not added. All rows come out too large."""
    square = _mean_square(x)
    return x / np.sqrt(np.where(square.real < eps, eps, square)) * weight


for _eps in (1e-5, 1e-6, 1e-8):

    @of_eps(f"RMSNorm: epsilon always {_eps:.0e}", accepted_inside=True)
    def _(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5, own: float = _eps) -> np.ndarray:
        """This constant is added, whatever `eps` is (1e-5 in the course's blocks and models).
        Rows near zero are scaled by another factor."""
        return rmsnorm(x, weight, own)


@of_rmsnorm("RMSNorm: sum of squares divided by d_model - 1", pitfall="Variance divided by n or n - 1")
def _(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """The sum of squares is divided by d_model - 1, as in an unbiased variance. The output is too small."""
    return x / np.sqrt((x * x).sum(-1, keepdims=True) / max(x.shape[-1] - 1, 1) + eps) * weight


@of_rmsnorm("RMSNorm: 1 + weight", pitfall="A gain of weight or 1 + weight")
def _(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """The gain is 1 + weight, as in Gemma, whose weights start at 0. Weights that start at 1 are then taken for 2."""
    return rmsnorm(x, 1 + weight, eps)


@of_rmsnorm("RMSNorm: mean over all axes")
def _(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """The mean runs over the whole array. One number scales all positions and batch entries, which are then mixed."""
    return x / np.sqrt((x * x).mean(all_axes(x), keepdims=True) + eps) * weight


@of_rmsnorm("RMSNorm: mean over the sequence")
def _(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """The mean runs over the axis before the last. Positions are mixed, later ones with earlier ones."""
    return x / np.sqrt((x * x).mean(-min(2, x.ndim), keepdims=True) + eps) * weight


@of_rmsnorm("RMSNorm: mean over the sequence and d_model")
def _(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """The mean runs over the last two axes. Positions are mixed, later ones with earlier ones."""
    return x / np.sqrt((x * x).mean(tuple(range(-min(2, x.ndim), 0)), keepdims=True) + eps) * weight


@of_rmsnorm("RMSNorm: mean subtracted, as in LayerNorm")
def _(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """The mean is subtracted first, which makes it a LayerNorm without bias. The rows' means are lost."""
    return rmsnorm(x - x.mean(-1, keepdims=True), weight, eps)


@of_rmsnorm("RMSNorm: standard deviation for the root mean square")
def _(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """x is divided by its standard deviation, which subtracts the mean. The output is too large."""
    return x / np.sqrt(_mean_square(x - x.mean(-1, keepdims=True)) + eps) * weight


@of_rmsnorm("RMSNorm: weight missing")
def _(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """The output is not multiplied by the weight. The weight gets no gradient."""
    return rmsnorm(x, np.ones(x.shape[-1]), eps)


@of_rmsnorm("RMSNorm: weight before the norm")
def _(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """x is multiplied by the weight before its root mean square is taken. The weight's size then cancels."""
    return rmsnorm(x * weight, np.ones(x.shape[-1]), eps)


@of_rmsnorm("RMSNorm: sum for the mean")
def _(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """The squares are summed, not averaged. The output is too small by sqrt(d_model)."""
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + eps) * weight


@of_rmsnorm("RMSNorm: root missing")
def _(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """x is divided by the mean square without its root. Large inputs give small outputs."""
    return x / (_mean_square(x) + eps) * weight


@of_rmsnorm("RMSNorm: root mean square multiplied")
def _(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """x is multiplied by its root mean square, not divided by it. The output grows with the square of the input."""
    return x * np.sqrt(_mean_square(x) + eps) * weight


@of_rmsnorm("RMSNorm: root mean square detached")
def _(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """No gradient flows through the root mean square. The output is right, and x's gradient lacks a term."""
    return x / np.sqrt(_mean_square(detach(x)) + eps) * weight
