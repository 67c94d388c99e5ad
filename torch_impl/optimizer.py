"""AdamW and SGD. A parameter's state is a dict, as in torch's optimizers."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tokenizer.errors import InputError
from torch_impl import fast


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, algorithm 2), as the course writes it.

    The bias correction is folded into the step size, epsilon is added to the uncorrected root, and the decay
    follows the update, by lr * weight_decay.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            raise InputError(
                f"AdamW: lr {lr}, eps {eps} and weight_decay {weight_decay} must be at least 0 "
                f"and betas {betas} in [0, 1)"
            )
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient. Return the closure's loss if a closure is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, (beta1, beta2), eps = group["lr"], group["betas"], group["eps"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                state["step"] += 1
                t = state["step"]
                step_size = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
                decay = lr * group["weight_decay"]
                adamw_update(p, p.grad, state["m"], state["v"], step_size, (beta1, beta2), eps, decay)
        return loss


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
) -> None:
    """Update a weight and its moments in place.

    Args:
        step_size: The learning rate times the bias correction.
        decay: The learning rate times the weight decay.
    """
    beta1, beta2 = betas
    m.mul_(beta1).add_(g, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    p.addcdiv_(m, v.sqrt().add_(eps), value=-step_size)
    p.sub_(p, alpha=decay)


class SGD(Optimizer):
    """Gradient descent with step size lr / sqrt(t + 1); t counts steps from 0."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-3) -> None:
        if lr < 0:
            raise InputError(f"SGD: lr {lr} must be at least 0")
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient. Return the closure's loss if a closure is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                t = self.state[p].get("step", 0)
                sgd_update(p, p.grad, group["lr"] / math.sqrt(t + 1))
                self.state[p]["step"] = t + 1
        return loss


def sgd_update(p: Tensor, g: Tensor, step_size: float) -> None:
    """Update a weight in place."""
    p.sub_(g, alpha=step_size)
