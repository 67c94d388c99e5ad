"""Batches and checkpoints in another hand: slices that are stacked, a dict of copies of tensors."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

_RNG = np.random.default_rng(0)


def get_batch(wrong: str, ids: np.ndarray, rows: int, length: int, device: str) -> tuple[Any, Any]:
    wrong, n, rng = wrong.removeprefix("batches: "), len(ids), _RNG
    if wrong == "every batch is the same":
        rng = np.random.default_rng(5)
    draws: dict[str, Callable[[], Any]] = {
        "the last place is never drawn": lambda: rng.integers(0, n - length - 1, rows),
        "the first place is never drawn": lambda: 1 + rng.integers(0, n - length - 1, rows),
        "starts reach one place too far": lambda: rng.integers(0, n - length, rows, endpoint=True),
        "starts are multiples of the context length": lambda: (
            rng.integers(0, (n - 1) // length, rows) * length
        ),
        "one start for the whole batch": lambda: [rng.integers(n - length)] * rows,
        "windows in order from the start": lambda: [i % (n - length) for i in range(rows)],
        "starts too far are moved to the last place": lambda: rng.integers(0, n, rows).clip(
            0, n - length - 1
        ),
        "targets two tokens further on": lambda: rng.integers(0, n - length - 1, rows),
    }
    starts = draws.get(wrong, lambda: rng.integers(0, n - length, rows))()
    if wrong == "windows of context_length + 1 tokens":
        starts, length = rng.integers(0, n - length - 1, rows), length + 1
    step = {"targets equal the inputs": 0, "targets two tokens further on": 2}.get(wrong, 1)
    x = np.stack([ids[s : s + length] for s in starts])
    y = np.stack([ids[s + step : s + step + length] for s in starts])
    match wrong:
        case "inputs and targets swapped":
            x, y = y, x
        case "targets shifted around inside the window":
            y = np.concatenate([x[:, 1:], x[:, :1]], 1)
        case "only the last token is a target":
            y = y[:, -1]
        case "windows of context_length - 1 tokens":
            x, y = x[:, 1:], y[:, 1:]
        case "tokens drawn one by one":
            x = ids[rng.integers(0, n - 1, (rows, length))]
            y = x + 1
    if wrong != "the file's type is kept":
        x, y = x.astype(np.int64), y.astype(np.int64)
    device = "cpu" if wrong == "the device is ignored" else device
    return torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)


def save(
    wrong: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer, iteration: int, out: Any
) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if wrong == "checkpoint: numbers lose their precision":
        state = {name: tensor.to(torch.bfloat16) for name, tensor in state.items()}
    if wrong == "checkpoint: buffers are missing":
        state = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.save([state, copy.deepcopy(optimizer.state_dict()), iteration], out)


def load(wrong: str, source: Any, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    state, options, iteration = torch.load(source, weights_only=True)
    if wrong != "checkpoint: the model is not loaded":
        model.load_state_dict(state, strict=False)
    fresh = optimizer.state_dict()
    match wrong.removeprefix("checkpoint: "):
        case "the optimizer is not loaded":
            options = fresh
        case "the optimizer's options are not loaded":
            options = {"state": options["state"], "param_groups": fresh["param_groups"]}
        case "the optimizer's moments are not loaded":
            options = {"state": {}, "param_groups": options["param_groups"]}
        case "tuples become lists":
            for group in options["param_groups"]:
                group["betas"] = list(group["betas"])
        case "the iteration is not returned":
            iteration = None
        case "the iteration is one too large":
            iteration += 1
        case "the iteration is 0":
            iteration = 0
    optimizer.load_state_dict(options)
    return iteration
