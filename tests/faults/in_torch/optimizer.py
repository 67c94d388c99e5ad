"""Faults in torch_impl/optimizer.py."""

import math
from typing import Any

import torch
from torch import Tensor

from tests.faults.fault import MUON, OPTIMIZER, fault


@fault("epsilon after bias correction", "torch_impl.optimizer.AdamW.step", OPTIMIZER)
def _(step: Any) -> Any:
    def broken(self: Any, closure: Any = None) -> Any:
        t = 1 + max((state["step"] for state in self.state.values()), default=0)
        given = [group["eps"] for group in self.param_groups]
        for group in self.param_groups:
            group["eps"] *= math.sqrt(1 - group["betas"][1] ** t)
        loss = step(self, closure)
        for group, eps in zip(self.param_groups, given, strict=True):
            group["eps"] = eps
        return loss

    return broken


@fault("decay without the learning rate", "torch_impl.optimizer.AdamW.step", OPTIMIZER)
def _(step: Any) -> Any:
    @torch.no_grad()
    def broken(self: Any, closure: Any = None) -> Any:
        given = [group["weight_decay"] for group in self.param_groups]
        for group in self.param_groups:
            group["weight_decay"] = 0.0
        loss = step(self, closure)
        for group, weight_decay in zip(self.param_groups, given, strict=True):
            group["weight_decay"] = weight_decay
            for p in (p for p in group["params"] if p.grad is not None):
                p.sub_(p, alpha=1e-3 * weight_decay)
        return loss

    return broken


@fault("decay before the update", "torch_impl.optimizer.adamw_update", OPTIMIZER)
def _(adamw_update: Any) -> Any:
    def broken(
        p: Tensor,
        g: Tensor,
        m: Tensor,
        v: Tensor,
        step_size: float,
        betas: Any,
        eps: float,
        decay: float,
        decay_first: bool = False,
    ) -> None:
        p.sub_(p, alpha=decay)
        adamw_update(p, g, m, v, step_size, betas, eps, 0.0)

    return broken


@fault("the second moment decays like the first", "torch_impl.optimizer.adamw_update", OPTIMIZER)
def _(adamw_update: Any) -> Any:
    def broken(
        p: Tensor,
        g: Tensor,
        m: Tensor,
        v: Tensor,
        step_size: float,
        betas: Any,
        eps: float,
        decay: float,
        decay_first: bool = False,
    ) -> None:
        beta1, beta2 = betas
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta1).addcmul_(g, g, value=1 - beta2)
        p.addcdiv_(m, v.sqrt().add_(eps), value=-step_size)
        p.sub_(p, alpha=decay)

    return broken


@fault("Nesterov's step", "torch_impl.optimizer.adamw_update", OPTIMIZER)
def _(adamw_update: Any) -> Any:
    def broken(
        p: Tensor,
        g: Tensor,
        m: Tensor,
        v: Tensor,
        step_size: float,
        betas: Any,
        eps: float,
        decay: float,
        decay_first: bool = False,
    ) -> None:
        beta1, beta2 = betas
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        p.addcdiv_(beta1 * m + (1 - beta1) * g, v.sqrt().add_(eps), value=-step_size)
        p.sub_(p, alpha=decay)

    return broken


@fault("torch's AdamW of 2026 decays last", "torch_impl.optimizer.adamw_update", OPTIMIZER)
def _(adamw_update: Any) -> Any:
    return lambda *args: adamw_update(*args[:8], False)


@fault("torch's Muon has no Nesterov step", "torch_impl.optimizer.muon_momentum", MUON)
def _(muon_momentum: Any) -> Any:
    def broken(g: Tensor, m: Tensor, momentum: float) -> Tensor:
        muon_momentum(g, m, momentum)
        return m

    return broken


@fault("torch's Muon forgets its momentum", "torch_impl.optimizer.Muon.step", MUON)
def _(step: Any) -> Any:
    def broken(self: Any, closure: Any = None) -> Any:
        self.state.clear()
        return step(self, closure)

    return broken


@fault("torch multiplies a tall matrix by its larger side", "torch_impl.optimizer.orthogonalize", MUON)
def _(orthogonalize: Any) -> Any:
    def broken(x: Tensor, dtype: Any = "float32") -> Tensor:
        from lm.muon import COEFFICIENTS, EPS

        a, b, c = COEFFICIENTS
        X = (x / torch.linalg.vector_norm(x).clamp(min=EPS)).to(
            torch.bfloat16 if dtype == "bfloat16" else x.dtype
        )
        for _ in range(5):
            A = X @ X.mT
            X = a * X + (b * A + c * (A @ A)) @ X
        return X.to(x.dtype)

    return broken


@fault("SGD counts steps from one", "torch_impl.optimizer.SGD.step", OPTIMIZER)
def _(step: Any) -> Any:
    def broken(self: Any, closure: Any = None) -> Any:
        for p in (p for group in self.param_groups for p in group["params"]):
            self.state[p].setdefault("step", 1)
        return step(self, closure)

    return broken
