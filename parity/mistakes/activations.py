"""Mistakes in the activations: SiLU, GELU in both forms, ReLU."""

import math
from functools import partial

import numpy as np

from parity.mistakes.mistake import detach, mistake
from parity.oracle.functional import gelu, gelu_tanh, normal_cdf, relu, silu

of_silu = partial(mistake, replaces="silu", formula="x / (1 + exp(-x))", source="Elfwing et al., 2017, eq. 1")


@of_silu("SiLU: sigmoid without the factor x")
def _(x: np.ndarray) -> np.ndarray:
    """sigmoid(x) is returned without the factor x. The output lies between 0 and 1 and saturates."""
    return (1 + np.tanh(x / 2)) / 2


@of_silu("SiLU: sign of the exponent")
def _(x: np.ndarray) -> np.ndarray:
    """The exponent has the wrong sign: x / (1 + exp(x)). Large inputs vanish and negative ones pass."""
    return -silu(-x)


@of_silu("SiLU: sigmoid(1.702 x)")
def _(x: np.ndarray) -> np.ndarray:
    """The sigmoid takes 1.702 x, which approximates GELU. It is steeper than SiLU around 0."""
    return silu(1.702 * x) / 1.702


@of_silu("SiLU: GELU in its place", pitfall="GELU by erf or by tanh")
def _(x: np.ndarray) -> np.ndarray:
    """GELU stands in SiLU's place. The two differ by up to 0.2, most around 2 and -2."""
    return gelu(x)


@of_silu("SiLU: ReLU in its place")
def _(x: np.ndarray) -> np.ndarray:
    """ReLU stands in SiLU's place. Negative inputs give zero and get no gradient."""
    return relu(x)


@of_silu("SiLU: tanh in the sigmoid's place")
def _(x: np.ndarray) -> np.ndarray:
    """x is multiplied by tanh(x) in place of sigmoid(x). Negative inputs give positive outputs."""
    return x * np.tanh(x)


@of_silu("SiLU: exp(-x) overflows")
@np.errstate(all="ignore")
def _(x: np.ndarray) -> np.ndarray:
    """exp(-x) is computed as it stands and overflows below -88 in float32. The output is right, its gradient NaN."""
    return x / (1 + np.exp(-x))


@of_silu("SiLU: exp(x) / (1 + exp(x)) overflows")
@np.errstate(all="ignore")
def _(x: np.ndarray) -> np.ndarray:
    """The sigmoid is exp(x) / (1 + exp(x)), which overflows above 88 in float32. The output there is NaN."""
    exp = np.exp(x)
    return x * (exp / (1 + exp))


@of_silu("SiLU: sigmoid detached")
def _(x: np.ndarray) -> np.ndarray:
    """No gradient flows through the sigmoid. The output is right, and the gradient is sigmoid(x) alone."""
    return x * (1 + np.tanh(detach(x) / 2)) / 2


of_gelu = partial(
    mistake,
    replaces="gelu",
    formula="x (1 + erf(x / sqrt(2))) / 2",
    source="Hendrycks and Gimpel, 2016, section 2",
    pitfall="GELU by erf or by tanh",
)


@of_gelu("GELU: approximation by tanh")
def _(x: np.ndarray) -> np.ndarray:
    """The approximation by tanh stands in the exact function's place. The two differ by up to 4.7e-4."""
    return gelu_tanh(x)


@of_gelu("GELU: approximation by sigmoid(1.702 x)")
def _(x: np.ndarray) -> np.ndarray:
    """The approximation x sigmoid(1.702 x) stands in the exact function's place. The two differ by up to 0.02."""
    return silu(1.702 * x) / 1.702


@of_gelu("GELU: SiLU in its place")
def _(x: np.ndarray) -> np.ndarray:
    """SiLU stands in GELU's place. The two differ by up to 0.2, most around 2 and -2."""
    return silu(x)


@of_gelu("GELU: ReLU in its place")
def _(x: np.ndarray) -> np.ndarray:
    """ReLU stands in GELU's place. Negative inputs give zero and get no gradient."""
    return relu(x)


@of_gelu("GELU: erf(x) without 1 / sqrt(2)")
def _(x: np.ndarray) -> np.ndarray:
    """erf takes x in place of x / sqrt(2). The step around 0 is too steep."""
    return x * normal_cdf(math.sqrt(2) * x)


@of_gelu("GELU: factor 1/2 missing")
def _(x: np.ndarray) -> np.ndarray:
    """x (1 + erf(x / sqrt(2))) is not halved. The output is twice too large."""
    return 2 * x * normal_cdf(x)


@of_gelu("GELU: Phi without the factor x")
def _(x: np.ndarray) -> np.ndarray:
    """The normal distribution's Phi(x) is returned without the factor x. The output lies between 0 and 1."""
    return normal_cdf(x)


@of_gelu("GELU: Phi detached")
def _(x: np.ndarray) -> np.ndarray:
    """No gradient flows through Phi. The output is right, and the gradient is Phi(x) alone."""
    return x * normal_cdf(detach(x))


of_gelu_tanh = partial(
    mistake,
    replaces="gelu_tanh",
    formula="x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2",
    source="Hendrycks and Gimpel, 2016, section 2",
    pitfall="GELU by erf or by tanh",
)


def _gelu_tanh(x: np.ndarray, factor: float, cubic: np.ndarray) -> np.ndarray:
    return x * (1 + np.tanh(factor * (x + cubic))) / 2


@of_gelu_tanh("GELU by tanh: the exact function in its place")
def _(x: np.ndarray) -> np.ndarray:
    """The exact function stands in the approximation's place. The two differ by up to 4.7e-4."""
    return gelu(x)


@of_gelu_tanh("GELU by tanh: square for the cube")
def _(x: np.ndarray) -> np.ndarray:
    """0.044715 x^2 is added in place of 0.044715 x^3. The approximation is then wrong, most at negative inputs."""
    return _gelu_tanh(x, math.sqrt(2 / math.pi), 0.044715 * x * x)


@of_gelu_tanh("GELU by tanh: cubic term missing")
def _(x: np.ndarray) -> np.ndarray:
    """The term 0.044715 x^3 is missing. The approximation is then off by up to 0.05, most around 2."""
    return _gelu_tanh(x, math.sqrt(2 / math.pi), 0 * x)


@of_gelu_tanh("GELU by tanh: factor sqrt(2 / pi) missing")
def _(x: np.ndarray) -> np.ndarray:
    """tanh takes x + 0.044715 x^3 without the factor sqrt(2 / pi). The step around 0 is too steep."""
    return _gelu_tanh(x, 1.0, 0.044715 * x**3)


@of_gelu_tanh("GELU by tanh: sqrt(2 pi) for sqrt(2 / pi)")
def _(x: np.ndarray) -> np.ndarray:
    """tanh's factor is sqrt(2 pi), pi times too large. The step around 0 is too steep."""
    return _gelu_tanh(x, math.sqrt(2 * math.pi), 0.044715 * x**3)


@of_gelu_tanh("GELU by tanh: sqrt(2 / pi) outside tanh")
def _(x: np.ndarray) -> np.ndarray:
    """The factor sqrt(2 / pi) multiplies tanh's result, not its argument. Large inputs are then scaled by 0.9."""
    return x * (1 + math.sqrt(2 / math.pi) * np.tanh(x + 0.044715 * x**3)) / 2


of_relu = partial(
    mistake,
    replaces="relu",
    formula="max(x, 0), with gradient 0 at 0",
    source="Nair and Hinton, 2010, section 2",
)


@of_relu("ReLU: gradient 1 at 0", pitfall="The gradient of relu at 0")
def _(x: np.ndarray) -> np.ndarray:
    """The gradient at 0 is 1, as with torch's clamp. torch.relu and jax.nn.relu pass none there."""
    return x * (x.real >= 0)


@of_relu("ReLU: gradient 1/2 at 0", pitfall="The gradient of relu at 0")
def _(x: np.ndarray) -> np.ndarray:
    """The gradient at 0 is 1/2, as with maximum(x, 0). torch.relu and jax.nn.relu pass none there."""
    return x * ((x.real > 0) + 0.5 * (x.real == 0))


@of_relu("ReLU: leaky")
def _(x: np.ndarray) -> np.ndarray:
    """Negative inputs are multiplied by 0.01 in place of 0. They pass a hundredth of their gradient."""
    return x * np.where(x.real > 0, 1, 0.01)


@of_relu("ReLU: squared")
def _(x: np.ndarray) -> np.ndarray:
    """The output is squared (So et al., 2021). Large inputs grow with their square."""
    return relu(x) ** 2


@of_relu("ReLU: GELU in its place")
def _(x: np.ndarray) -> np.ndarray:
    """GELU stands in ReLU's place. Small negative inputs then pass."""
    return gelu(x)


@of_relu("ReLU: SiLU in its place")
def _(x: np.ndarray) -> np.ndarray:
    """SiLU stands in ReLU's place. Small negative inputs then pass."""
    return silu(x)
