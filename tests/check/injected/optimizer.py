"""Optimizers, clipping and the schedule in another hand: corrected moments, one long vector, angles in degrees."""

import math
from typing import Any

from parity.case import Given
from tests.check.injected.arrays import Tree
from tests.check.injected.ask import Implementation


class Adam:
    """AdamW with moments that are corrected themselves, as torch writes it, but with the course's epsilon and decay."""

    def __init__(self, xp: Any, wrong: str, betas: Any, eps: float, weight_decay: float) -> None:
        self.xp, self.wrong = xp, wrong.removeprefix("AdamW: ")
        self.b1, self.b2 = reversed(betas) if self.wrong == "betas swapped" else betas
        self.eps, self.decay = eps, 0.0 if self.wrong == "decay missing" else weight_decay
        self.state: dict[str, Any] = {}
        self.count, self.first_lr = 0, 0.0

    def step(self, weights: dict[str, Any], gradients: dict[str, Any], lr: float) -> None:
        self.first_lr = self.first_lr or lr
        lr = self.first_lr if self.wrong == "learning rate fixed at construction" else lr
        if self.wrong == "moments forgotten between steps":
            self.state = {name: (t, 0.0, 0.0) for name, (t, _, _) in self.state.items()}
        for name in weights:
            if name in gradients:
                weights[name] = self.moved(name, weights[name], gradients[name], lr)
            elif self.wrong == "weights without gradient decay":
                weights[name] = weights[name] - weights[name] * lr * self.decay

    def moved(self, name: str, w: Any, g: Any, lr: float) -> Any:
        wrong = self.wrong
        t, m, v = self.state.get(name, (0, 0.0, 0.0))
        self.count += 1
        t = self.count if wrong == "one step count for all weights" else t + 1
        steps = 1 if wrong == "step count does not grow" else t + (wrong == "bias correction one step ahead")
        if wrong == "L2 in place of decay":
            g = g + self.decay * w
        old_m, old_v = m, v
        m = m * self.b1 + g * (1.0 if wrong == "gradient added without 1 - beta1" else 1 - self.b1)
        square = m * m if wrong == "second moment of the first moment" else g * g
        v = v + (square - v) * (1 - self.b2)
        self.state[name] = (t, m, v)
        if wrong == "moments updated after the step":
            m, v = old_m + 0 * g, old_v + 0 * g
        if wrong == "step without momentum":
            m = g
        decayed = w - lr * self.decay * w
        if wrong in ("decay before the update", "torch.optim.AdamW's formula"):
            return decayed - self.change(m, v, steps, lr)
        w = w - self.change(m, v, steps, lr)
        match wrong:
            case "L2 in place of decay":
                return w
            case "decay without the learning rate":
                return w - self.decay * w
            case "decay by the corrected rate":
                return w - self.rate(steps, lr) * self.decay * w
            case "weights grow instead of decaying":
                return w + lr * self.decay * w
        return w - lr * self.decay * w

    def rate(self, t: int, lr: float) -> float:
        first, second = 1 - self.b1**t, math.sqrt(1 - self.b2**t)
        match self.wrong:
            case "bias correction missing":
                return lr
            case "bias correction of the second moment without its root":
                return lr * second * second / first
            case "bias correction inverted":
                return lr * first / second
            case "bias correction of the first moment missing":
                return lr * second
            case "bias correction of the second moment missing":
                return lr / first
        return lr / first * second

    def change(self, m: Any, v: Any, t: int, lr: float) -> Any:
        xp, eps = self.xp, self.eps
        match self.wrong:
            case "epsilon inside the root":
                return self.rate(t, lr) * m / xp.sqrt(v + eps)
            case "epsilon missing":
                eps = 0.0
            case "epsilon after bias correction" | "torch.optim.AdamW's formula":
                eps = eps * math.sqrt(1 - self.b2**t)
            case "root missing":
                return self.rate(t, lr) * m / (v + eps)
        return self.rate(t, lr) * m / (xp.sqrt(v) + eps)


def after_steps(xp: Any, tree: Tree, given: Given, step: Any) -> Any:
    weights = {name: a for name, a in tree.items() if name.endswith("weight")}
    rows = []
    for t, lr in enumerate(given.statics["lrs"]):
        of_step = {name: f"{t}.{name.replace('weight', 'gradient')}" for name in weights}
        step(weights, {name: tree[key] for name, key in of_step.items() if key in tree}, lr)
        rows.append(xp.concatenate([w.reshape(-1) for w in weights.values()], 0))
    return xp.stack(rows, 0)


def adamw(xp: Any, tree: Tree, given: Given, wrong: str) -> Any:
    s = given.statics
    return after_steps(xp, tree, given, Adam(xp, wrong, s["betas"], s["eps"], s["weight_decay"]).step)


def sgd(xp: Any, tree: Tree, given: Given, wrong: str) -> Any:
    t = 0

    def step(weights: dict[str, Any], gradients: dict[str, Any], lr: float) -> None:
        nonlocal t
        t += 1
        rates = {
            "SGD: step size does not fall": lr,
            "SGD: steps counted from 1": lr * (t + 1) ** -0.5,
            "SGD: step size falls as 1 / t": lr / t,
            "SGD: ascent": -lr * t**-0.5,
        }
        for name, g in gradients.items():
            weights[name] = weights[name] - rates.get(wrong, lr * t**-0.5) * g

    return after_steps(xp, tree, given, step)


def clip(xp: Any, tree: Tree, given: Given, wrong: str) -> Any:
    limit, wrong = given.statics["max_norm"], wrong.removeprefix("clipping: ")
    parts = [g.reshape(-1) for g in tree.values()]
    whole = xp.concatenate(parts, 0)

    def length(x: Any) -> Any:
        return xp.sqrt(xp.einsum("i,i->", x, x))

    def scaled(x: Any, norm: Any, eps: float = 1e-6) -> Any:
        return xp.where(norm > limit, x * (limit / (norm + eps)), x)

    match wrong:
        case "each tensor by its own norm":
            return xp.concatenate([scaled(part, length(part)) for part in parts], 0)
        case "each element by value":
            return xp.where(abs(whole) > limit, limit * xp.sign(whole), whole)
        case "epsilon missing":
            return scaled(whole, length(whole), 0.0)
        case "scales small gradients up":
            return whole / (length(whole) + 1e-6) * limit
        case "divided by the norm alone":
            norm = length(whole)
            return xp.where(norm > limit, whole / (norm + 1e-6), whole)
        case "gradients do not change":
            return whole
    norms = {
        "the largest element in place of the norm": abs(whole).max(),
        "the largest tensor's norm in place of the norm": xp.stack([length(p) for p in parts], 0).max(),
        "sum of absolute values in place of the norm": abs(whole).sum(),
        "norms added without squaring": xp.stack([length(p) for p in parts], 0).sum(),
        "squared norm": (whole * whole).sum(),
        "root mean square in place of the norm": xp.sqrt((whole * whole).mean()),
        "the last tensor's norm alone": length(parts[-1]),
    }
    return scaled(whole, norms.get(wrong, length(whole)))


def rate(t: int, high: float, low: float, warm: int, end: int, wrong: str) -> float:
    """Return the rate of a step, with the cosine's angle in degrees."""
    if wrong == "maximum and minimum swapped":
        high, low = low, high
    if t < warm:
        ramps = {
            "warm-up counts from 1": (t + 1) / warm * high,
            "warm-up ends one step late": t / (warm + 1) * high,
            "warm-up from the minimum": t / warm * (high - low) + low,
            "warm-up in whole numbers": t // warm * high,
            "no warm-up": high,
        }
        return ramps.get(wrong, t / warm * high)
    if wrong == "T_c counts from the end of the warm-up":
        end += warm
    if t > end:
        ends = {"0 after the cosine": 0.0, "maximum after the cosine": high}
        if wrong != "cosine never ends":
            return ends.get(wrong, low)
    past, length = t - warm, end - warm
    shares = {
        "cosine from step 0": t / end,
        "cosine over T_c steps": past / end,
        "progress one step ahead": (past + 1) / length,
        "cosine one step short": past / (length - 1),
        "cosine one step long": past / (length + 1),
        "angle without pi": past / length / math.pi,
        "a whole period of the cosine": 2 * past / length,
    }
    share = shares.get(wrong, past / length)
    swing = math.cos(math.radians(180 * share))
    match wrong:
        case "a quarter period of the cosine":
            return low + (high - low) * math.cos(math.radians(90 * share))
        case "half missing":
            return low + (high - low) * (1 + swing)
        case "cosine rises":
            return low + (high - low) * (1 - swing) / 2
        case "line in place of the cosine":
            return high - (high - low) * share
        case "minimum not added":
            return (high - low) * (1 + swing) / 2
        case "minimum not subtracted from the amplitude":
            return low + high * (1 + swing) / 2
        case "minimum as a floor":
            return max(low, high * (1 + swing) / 2)
    return (high + low) / 2 + (high - low) / 2 * swing


def schedule(xp: Any, tree: Tree, given: Given, wrong: str) -> Any:
    s = given.statics
    rest = s["highest"], s["lowest"], s["warmup_steps"], s["cosine_steps"]
    rates = [rate(t, *rest, wrong.removeprefix("schedule: ")) for t in s["steps"]]
    return xp.asarray(rates, dtype=xp.float64)


INJECTED: dict[str, Implementation] = {
    "adamw": adamw,
    "sgd": sgd,
    "clip_gradients": clip,
    "lr_schedule": schedule,
}
