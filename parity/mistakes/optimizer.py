"""Mistakes of AdamW, and of SGD with a falling step size."""

import math
from functools import partial
from typing import Any

import numpy as np

from parity.mistakes.mistake import mistake
from parity.oracle import SGD, AdamW
from parity.oracle.gradients import Weights
from parity.oracle.optimizer import Update, adamw_update

Updated = tuple[np.ndarray, Any, Any]
_ALGORITHM = "Loshchilov and Hutter, 2019, algorithm 2; the course's assignment 1, section 4.3"
_update = partial(mistake, replaces="adamw_update", source=_ALGORITHM)
_RATE = "lr_t = lr * sqrt(1 - beta2^t) / (1 - beta1^t)"
_STEP = f"{_RATE}; theta -= lr_t * m / (sqrt(v) + eps)"
_DECAY = "theta -= lr * weight_decay * theta, apart from the moments"
_EPSILON = "AdamW's epsilon before or after bias correction"
_ORDER = "Decay before or after the update, and by which rate"
_CORRECTION = "Bias correction that is left out or miscounted"


def _step(u: Update, rate: float, m: Any, v: Any) -> np.ndarray:
    weight = u.weight - rate * m / (np.sqrt(v) + u.eps)
    return np.asarray(weight * (1 - u.lr * u.weight_decay))


def _rate(u: Update) -> float:
    return u.lr * math.sqrt(1 - u.betas[1] ** u.t) / (1 - u.betas[0] ** u.t)


def _decayed(u: Update) -> Update:
    return u._replace(weight=u.weight * (1 - u.lr * u.weight_decay), weight_decay=0.0)


def _corrected(u: Update) -> Updated:
    """Let eps be added to the corrected root."""
    return adamw_update(u._replace(eps=u.eps * math.sqrt(1 - u.betas[1] ** u.t)))


@_update("AdamW: decay before the update", formula=_STEP + "; then " + _DECAY, pitfall=_ORDER, accepted=True)
def _(u: Update) -> Updated:
    """The weight decays before the update instead of after it. The course of 2026 writes AdamW so, and the weights
    differ by lr^2 * weight_decay in each step."""
    return adamw_update(_decayed(u))


@_update(
    "AdamW: torch.optim.AdamW's formula", formula=_STEP + "; then " + _DECAY, pitfall=_EPSILON, accepted=True
)
def _(u: Update) -> Updated:
    """Epsilon is added to the bias-corrected root, and the weight decays before the update. The course's tests
    accept it, and it differs where gradients are about as small as epsilon."""
    return _corrected(_decayed(u))


@_update("AdamW: epsilon after bias correction", formula=_STEP, pitfall=_EPSILON, accepted=True)
def _(u: Update) -> Updated:
    """Epsilon is added to the bias-corrected root, as in the paper, and the weight decays after the update. The
    course's tests accept it, and it differs where gradients are about as small as epsilon."""
    return _corrected(u)


@_update("AdamW: epsilon inside the root", formula=_STEP, pitfall=_EPSILON)
def _(u: Update) -> Updated:
    """Epsilon is added to v inside the root. The denominator of a small gradient is then sqrt(eps), 10,000 times
    the epsilon of 1e-8."""
    _, m, v = adamw_update(u)
    return _step(u._replace(eps=0.0), _rate(u), m, v + u.eps), m, v


@_update("AdamW: epsilon missing", formula=_STEP, pitfall=_EPSILON)
def _(u: Update) -> Updated:
    """Nothing is added to the root. A gradient that is 0 gives 0 / 0, and tiny gradients take steps of full size."""
    return adamw_update(u._replace(eps=0.0))


@_update("AdamW: L2 in place of decay", formula=_DECAY, pitfall=_ORDER)
def _(u: Update) -> Updated:
    """Weight decay is added to the gradient, so it enters both moments. That is Adam with L2 regularization:
    weights with large gradients hardly decay."""
    return adamw_update(u._replace(gradient=u.gradient + u.weight_decay * u.weight, weight_decay=0.0))


@_update("AdamW: decay missing", formula=_DECAY, pitfall=_ORDER)
def _(u: Update) -> Updated:
    """The weights do not decay. The optimizer is Adam, and weight_decay has no effect."""
    return adamw_update(u._replace(weight_decay=0.0))


@_update("AdamW: decay without the learning rate", formula=_DECAY, pitfall=_ORDER)
def _(u: Update) -> Updated:
    """The weight decays by weight_decay instead of lr * weight_decay. Each step then removes a fixed share of the
    weight, whatever the schedule says."""
    return adamw_update(u._replace(weight_decay=u.weight_decay / u.lr))


@_update("AdamW: decay by the corrected rate", formula=_DECAY, pitfall=_ORDER)
def _(u: Update) -> Updated:
    """The weight decays by the bias-corrected rate lr_t instead of lr. In the first steps the decay is then several
    times too small or too large."""
    return adamw_update(u._replace(weight_decay=u.weight_decay * _rate(u) / u.lr))


@_update("AdamW: weights grow instead of decaying", formula=_DECAY, pitfall=_ORDER)
def _(u: Update) -> Updated:
    """The decay has the wrong sign. Weights grow by lr * weight_decay in each step."""
    return adamw_update(u._replace(weight_decay=-u.weight_decay))


@_update("AdamW: bias correction missing", formula=_RATE, pitfall=_CORRECTION)
def _(u: Update) -> Updated:
    """The moments are used without bias correction. With betas (0.9, 0.999) the first step is 3.2 times too large."""
    _, m, v = adamw_update(u)
    return _step(u, u.lr, m, v), m, v


@_update(
    "AdamW: bias correction one step ahead", formula=_RATE + ", t = 1 at the first step", pitfall=_CORRECTION
)
def _(u: Update) -> Updated:
    """The correction counts steps from 2 instead of 1. The first steps have the wrong size, and the error fades."""
    return adamw_update(u._replace(t=u.t + 1))


@_update("AdamW: bias correction of the second moment without its root", formula=_RATE, pitfall=_CORRECTION)
def _(u: Update) -> Updated:
    """The rate is lr * (1 - beta2^t) / (1 - beta1^t): the root is missing. The first steps are up to 30 times too
    small."""
    _, m, v = adamw_update(u)
    return _step(u, u.lr * (1 - u.betas[1] ** u.t) / (1 - u.betas[0] ** u.t), m, v), m, v


@_update("AdamW: bias correction inverted", formula=_RATE, pitfall=_CORRECTION)
def _(u: Update) -> Updated:
    """The rate is multiplied by (1 - beta1^t) / sqrt(1 - beta2^t) instead of being divided by it. The first step is
    10 times too large."""
    _, m, v = adamw_update(u)
    return _step(u, u.lr * u.lr / _rate(u), m, v), m, v


@_update("AdamW: bias correction of the first moment missing", formula=_RATE, pitfall=_CORRECTION)
def _(u: Update) -> Updated:
    """Only the second moment is corrected. The first steps are 10 times too small with a beta1 of 0.9."""
    _, m, v = adamw_update(u)
    return _step(u, u.lr * math.sqrt(1 - u.betas[1] ** u.t), m, v), m, v


@_update("AdamW: bias correction of the second moment missing", formula=_RATE, pitfall=_CORRECTION)
def _(u: Update) -> Updated:
    """Only the first moment is corrected. The first steps are 32 times too large with a beta2 of 0.999."""
    _, m, v = adamw_update(u)
    return _step(u, u.lr / (1 - u.betas[0] ** u.t), m, v), m, v


@_update("AdamW: betas swapped", formula="m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * g^2")
def _(u: Update) -> Updated:
    """The first moment takes beta2 and the second beta1. The direction then averages over 1,000 steps and the scale
    over 10."""
    return adamw_update(u._replace(betas=(u.betas[1], u.betas[0])))


@_update("AdamW: second moment of the first moment", formula="v = beta2 * v + (1 - beta2) * g^2")
def _(u: Update) -> Updated:
    """The second moment averages the squares of m instead of the squares of the gradient. Noise then no longer
    shortens the steps."""
    _, m, _ = adamw_update(u)
    v = u.betas[1] * u.v + (1 - u.betas[1]) * m**2
    return _step(u, _rate(u), m, v), m, v


@_update("AdamW: root missing", formula=_STEP)
def _(u: Update) -> Updated:
    """The step is divided by v instead of its root. It then grows as gradients shrink."""
    _, m, v = adamw_update(u)
    return _step(u, _rate(u), m, v * v), m, v


@_update("AdamW: gradient added without 1 - beta1", formula="m = beta1 * m + (1 - beta1) * g")
def _(u: Update) -> Updated:
    """The first moment adds the whole gradient, as SGD's momentum does. Steps are 10 times too large with a beta1
    of 0.9."""
    _, _, v = adamw_update(u)
    m = u.betas[0] * u.m + u.gradient
    return _step(u, _rate(u), m, v), m, v


@_update("AdamW: step without momentum", formula=_STEP)
def _(u: Update) -> Updated:
    """The step goes along the gradient instead of its average m. That is RMSProp with bias correction."""
    _, m, v = adamw_update(u)
    return _step(u, _rate(u), u.gradient, v), m, v


@_update("AdamW: moments updated after the step", formula="update m and v, then the weight")
def _(u: Update) -> Updated:
    """The step uses the moments of the step before. The first step does not move the weights."""
    _, m, v = adamw_update(u)
    zero = np.zeros_like(u.weight)
    return _step(u, _rate(u), u.m + zero, u.v + zero), m, v


_state = partial(mistake, replaces="AdamW", source=_ALGORITHM)


@_state("AdamW: moments forgotten between steps", formula="m and v stay in self.state[p]")
class _Forgets(AdamW):
    """The moments start from 0 in every step, because they are not kept in the state. Each step is about lr *
    sign(gradient)."""

    def step(self, weights: Weights, gradients: Weights, lr: float) -> dict[str, np.ndarray]:
        self.m, self.v = {}, {}
        return super().step(weights, gradients, lr)


@_state("AdamW: one step count for all weights", formula="t grows by 1 in each step", pitfall=_CORRECTION)
class _CountsWeights(AdamW):
    """One counter grows with each weight instead of each step. The bias correction ends too early, the more weights
    there are."""

    def step(self, weights: Weights, gradients: Weights, lr: float) -> dict[str, np.ndarray]:
        self.t -= 1
        return super().step(weights, gradients, lr)

    def update(self, name: str, weight: np.ndarray, gradient: np.ndarray, lr: float) -> np.ndarray:
        self.t += 1
        return super().update(name, weight, gradient, lr)


@_state("AdamW: step count does not grow", formula=_RATE + "; t grows by 1 in each step", pitfall=_CORRECTION)
class _CountsNothing(AdamW):
    """The step count stays 1, because it is not written back to the state. Bias correction then never fades, and
    later steps are several times too large or too small."""

    def step(self, weights: Weights, gradients: Weights, lr: float) -> dict[str, np.ndarray]:
        self.t = 0
        return super().step(weights, gradients, lr)


@_state("AdamW: learning rate fixed at construction", formula='lr = group["lr"] in each step')
class _FixesRate(AdamW):
    """The rate is read once, when the optimizer is made. A schedule that sets the rate in param_groups then has no
    effect."""

    lr: float | None = None

    def step(self, weights: Weights, gradients: Weights, lr: float) -> dict[str, np.ndarray]:
        self.lr = self.lr or lr
        return super().step(weights, gradients, self.lr)


@_state("AdamW: weights without gradient decay", formula="if p.grad is None: continue")
class _DecaysAll(AdamW):
    """A weight whose gradient is None decays all the same. Frozen or unused weights then shrink to 0."""

    def step(self, weights: Weights, gradients: Weights, lr: float) -> dict[str, np.ndarray]:
        shrunk = {n: w if n in gradients else w * (1 - lr * self.weight_decay) for n, w in weights.items()}
        return super().step(shrunk, gradients, lr)


_sgd = partial(
    mistake,
    replaces="SGD",
    formula="theta -= lr / sqrt(t + 1) * g, t = 0, 1, ...",
    source="the course's assignment 1, section 4.2",
)


@_sgd("SGD: step size does not fall")
class _ConstantSGD(SGD):
    """The step size is lr in every step. The sum of steps then never settles."""

    def step(self, weights: Weights, gradients: Weights, lr: float) -> dict[str, np.ndarray]:
        self.t = 0
        return super().step(weights, gradients, lr)


@_sgd("SGD: steps counted from 1")
class _LateSGD(SGD):
    """The first step size is lr / sqrt(2) instead of lr. Every step is that of the step after it."""

    def step(self, weights: Weights, gradients: Weights, lr: float) -> dict[str, np.ndarray]:
        self.t += not self.t
        return super().step(weights, gradients, lr)


@_sgd("SGD: step size falls as 1 / t")
class _FastSGD(SGD):
    """The step size is lr / (t + 1): the root is missing. Steps shrink too fast to reach far weights."""

    def step(self, weights: Weights, gradients: Weights, lr: float) -> dict[str, np.ndarray]:
        return super().step(weights, gradients, lr / math.sqrt(self.t + 1))


@_sgd("SGD: ascent")
class _Ascent(SGD):
    """The gradient is added instead of being subtracted. The loss grows."""

    def step(self, weights: Weights, gradients: Weights, lr: float) -> dict[str, np.ndarray]:
        return super().step(weights, gradients, -lr)
