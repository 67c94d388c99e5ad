"""AdamW, Muon and SGD. A parameter's state is a dict, as in torch's optimizers."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from lm.config import AdamWForm, MuonDtype, MuonScale
from lm.muon import COEFFICIENTS, EPS, scale_factor
from tokenizer.errors import InputError
from torch_impl import fast


class UpdateEach(Optimizer):
    """An optimizer that updates each parameter by itself, in place. A subclass has the formula."""

    # torch's wrapper, which keeps this method out of compiled programs, loads the compiler: seconds of every start.
    add_param_group = getattr(Optimizer.add_param_group, "__wrapped__", Optimizer.add_param_group)

    def _update(self, p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Update a parameter and its state from its gradient. The state is empty before the first step."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient. Return the closure's loss if a closure is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, self.state[p], group)
        return loss


class AdamW(UpdateEach):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, algorithm 2), as the course writes it.

    The bias correction is folded into the step size. The form course adds epsilon to the uncorrected root, and the
    decay follows the update, by lr * weight_decay. In the form course-2026 the decay comes first. In the form torch it
    does, too, and epsilon is added to the corrected root.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        form: AdamWForm = "course",
    ) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            raise InputError(
                f"AdamW: lr {lr}, eps {eps} and weight_decay {weight_decay} must be at least 0 "
                f"and betas {betas} in [0, 1)"
            )
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "form": form}
        super().__init__(params, defaults)

    def _update(self, p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        lr, (beta1, beta2), eps = group["lr"], group["betas"], group["eps"]
        if not state:
            state.update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
        state["step"] += 1
        t = state["step"]
        root = math.sqrt(1 - beta2**t)
        adamw_update(
            p,
            g,
            state["m"],
            state["v"],
            lr * root / (1 - beta1**t),
            (beta1, beta2),
            # m / (sqrt(v) / root + eps) is root m / (sqrt(v) + root eps).
            eps * root if group["form"] == "torch" else eps,
            lr * group["weight_decay"],
            group["form"] != "course",
        )


@fast.blockwise
def adamw_update(
    p: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    step_size: float,
    betas: tuple[float, float],
    eps: float,
    decay: float,
    decay_first: bool = False,
) -> None:
    """Update a weight and its moments in place.

    Args:
        step_size: The learning rate times the bias correction.
        decay: The learning rate times the weight decay.
        decay_first: Whether the weight decays before the update, not after it.
    """
    beta1, beta2 = betas
    if decay_first:
        p.sub_(p, alpha=decay)
    m.mul_(beta1).add_(g, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    p.addcdiv_(m, v.sqrt().add_(eps), value=-step_size)
    if not decay_first:
        p.sub_(p, alpha=decay)


class Muon(UpdateEach):
    """Momentum whose update of each matrix is made orthogonal (Jordan et al., 2024, "Muon").

    The decay comes first, by lr * weight_decay. The momentum is Nesterov's.

    Args:
        scale: Factor of the orthogonal update (`lm.muon.scale_factor`).
        dtype: Type in which `orthogonalize` computes.
        on_whole: Applies a function to the whole update, if a parameter and its update hold some rows of a matrix, and
            returns these rows of the result. By default a parameter is the whole matrix.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        scale: MuonScale = "original",
        dtype: MuonDtype = "float32",
        on_whole: Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor] = lambda f, x, p: f(x),
    ) -> None:
        if lr < 0 or weight_decay < 0 or not 0 <= momentum < 1:
            raise InputError(
                f"Muon: lr {lr} and weight_decay {weight_decay} must be at least 0 and momentum {momentum} in [0, 1)"
            )
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.matrices = [p for group in self.param_groups for p in group["params"]]
        if any(p.ndim != 2 for p in self.matrices):
            raise InputError("Muon: updates matrices alone; give the other parameters to AdamW")
        self.direction = partial(muon_direction, scale=scale, dtype=dtype)
        self.on_whole = on_whole

    def _update(self, p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state.update(m=torch.zeros_like(p))
        update = muon_momentum(g, state["m"], group["momentum"])
        direction = self.on_whole(self.direction, update, p)
        muon_update(p, direction, group["lr"], group["lr"] * group["weight_decay"])


def muon_update(p: Tensor, direction: Tensor, step_size: float, decay: float) -> None:
    """Update a matrix in place, after its decay."""
    p.sub_(p, alpha=decay)
    p.sub_(direction, alpha=step_size)


def muon_momentum(g: Tensor, m: Tensor, momentum: float) -> Tensor:
    """Update the momentum in place, and return Nesterov's update: a mean of the gradient and the new momentum."""
    m.lerp_(g, 1 - momentum)
    return g.lerp(m, momentum)


def muon_direction(
    x: Float[Tensor, "R C"], scale: MuonScale = "original", dtype: MuonDtype = "float32"
) -> Float[Tensor, "R C"]:
    """Return the scaled orthogonal matrix next to x."""
    return orthogonalize(x, dtype) * scale_factor(scale, *x.shape)


def orthogonalize(x: Float[Tensor, "R C"], dtype: MuonDtype = "float32") -> Float[Tensor, "R C"]:
    """Replace the singular values of x by numbers near 1, between about 0.7 and 1.2 (Jordan et al., 2024).

    Each of five Newton-Schulz steps is the odd polynomial a s + b s^3 + c s^5 of every singular value s. Small ones
    grow fast, and none converges. Singular values that are far below the largest stay small, and zeros stay zeros.

    Args:
        dtype: Type of the products; float32 means the type of x, which is float32 or float64.
    """
    a, b, c = COEFFICIENTS
    is_tall = x.shape[0] > x.shape[1]
    X = x.mT if is_tall else x
    X = X / torch.linalg.vector_norm(X).clamp(min=EPS)
    if dtype == "bfloat16":
        X = X.bfloat16()
    for _ in range(5):
        A = X @ X.mT
        X = a * X + (b * A + c * (A @ A)) @ X
    return (X.mT if is_tall else X).to(x.dtype)


class SGD(UpdateEach):
    """Gradient descent with step size lr / sqrt(t + 1); t counts steps from 0."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-3) -> None:
        if lr < 0:
            raise InputError(f"SGD: lr {lr} must be at least 0")
        super().__init__(params, {"lr": lr})

    def _update(self, p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        t = state.setdefault("step", 0)
        sgd_update(p, g, group["lr"] / math.sqrt(t + 1))
        state["step"] = t + 1


def sgd_update(p: Tensor, g: Tensor, step_size: float) -> None:
    """Update a weight in place."""
    p.sub_(g, alpha=step_size)
