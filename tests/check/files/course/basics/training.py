# mypy: ignore-errors
"""A student's optimizer and data."""

import math

import numpy as np
import torch
from not_installed import log, profile

log.setup("training")


class AdamW(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps})

    @profile
    def step(self, closure=None):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                t = state.get("t", 0) + 1
                m = b1 * state.get("m", torch.zeros_like(p)) + (1 - b1) * p.grad
                v = b2 * state.get("v", torch.zeros_like(p)) + (1 - b2) * p.grad**2
                lr = group["lr"] * math.sqrt(1 - b2**t) / (1 - b1**t)
                p.data -= lr * m / (v.sqrt() + group["eps"])
                p.data -= group["lr"] * group["weight_decay"] * p.data
                state.update(t=t, m=m, v=v)


def lr_cosine_schedule(it, max_lr, min_lr, warmup, cycle):
    if it < warmup:
        return max_lr * it / warmup
    if it > cycle:
        return min_lr
    return min_lr + 0.5 * (1 + math.cos(math.pi * (it - warmup) / (cycle - warmup))) * (max_lr - min_lr)


def clip(parameters, max_norm):
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = torch.sqrt(sum((g**2).sum() for g in grads))
    if norm > max_norm:
        for g in grads:
            g.mul_(max_norm / (norm + 1e-6))


def get_batch(dataset, batch_size, context_length, device):
    starts = torch.randint(len(dataset) - context_length, (batch_size,)).tolist()
    x = np.stack([dataset[s : s + context_length] for s in starts]).astype(np.int64)
    y = np.stack([dataset[s + 1 : s + 1 + context_length] for s in starts]).astype(np.int64)
    return torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
