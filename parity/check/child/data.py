"""Draw batches, save and load checkpoints, and describe what comes of it."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .objects import handler
from .texts import raised

FIRST = 1000
"""The dataset's first id: ids count up from it, so that an id tells its place."""
CHI_SQUARED = 60.0
"""Largest statistic of evenly drawn starts, of at most 10 kinds: it is exceeded once in a billion."""


@handler
def get_batch(
    module: Any, function: str, length: int, batch_size: int, context_length: int, draws: int
) -> dict[str, Any]:
    """Draw batches from ids that count up, and return what they are like."""
    draw = getattr(module, function)
    dataset = np.arange(FIRST, FIRST + length)
    return describe(
        lambda: arrays(draw(dataset, batch_size, context_length, "cpu")), batch_size, context_length, draws
    )


@handler
def get_batch_on(module: Any, function: str, device: str) -> dict[str, Any]:
    """Return whether a device that does not exist is noticed."""
    draw = getattr(module, function)
    try:
        x, _ = draw(np.arange(20), 2, 3, device)
    except Exception:
        return {"device": "raises"}
    return {"device": "ignored" if _is_torch(x) else "raises"}


@handler
def get_batch_of_file(module: Any, function: str, dtype: str) -> dict[str, Any]:
    """Draw a batch from a file of large ids that is mapped into memory."""
    draw = getattr(module, function)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ids.bin")
        np.arange(40_000, 40_020, dtype=dtype).tofile(path)
        dataset = np.memmap(path, dtype, "r")
        try:
            return describe_file(lambda: arrays(draw(dataset, 4, 5, "cpu")))
        except Exception as error:
            return raised(error)
        finally:
            dataset._mmap.close()  # type: ignore[attr-defined]


def describe_file(draw: Callable[[], tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    x, y = draw()
    in_range = bool((x >= 40_000).all() and (x < 40_020).all() and (y == x + 1).all())
    return {"ids": "as in the file" if in_range else "others", "dtype": str(x.dtype)}


def describe(
    draw: Callable[[], tuple[np.ndarray, np.ndarray]], batch_size: int, context_length: int, draws: int
) -> dict[str, Any]:
    """Return what many batches are like. What one fault makes meaningless is left out."""
    try:
        batches = [draw() for _ in range(draws)]
    except Exception as error:
        return raised(error)
    x, y = batches[0]
    seen: dict[str, Any] = {"x": list(x.shape), "y": list(y.shape), "dtype": str(x.dtype)}
    if x.shape != y.shape or x.shape != (batch_size, context_length):
        return seen
    x, y = (np.stack([batch[i] for batch in batches]) for i in (0, 1))
    starts = x[:, :, 0] - FIRST
    seen["rows"] = "consecutive" if (np.diff(x, axis=-1) == 1).all() else "others"
    seen["targets - inputs"] = np.unique((y - x).reshape(-1, context_length), axis=0)[:5].tolist()
    if seen["rows"] == "others":
        return seen
    seen["each call draws"] = "afresh" if (starts != starts[0]).any() else "the same"
    seen["rows of a batch"] = "differ" if (starts != starts[:, :1]).any() else "are equal"
    if seen["each call draws"] == "the same":
        seen["rows of a batch"] = "in order" if (np.diff(starts[0]) == 1).all() else "any"
        return seen
    seen["starts"] = np.unique(starts).tolist()
    counts = np.array([(starts[:, 0] == start).sum() for start in seen["starts"]])
    statistic = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    favourite = "the last" if counts.argmax() == len(counts) - 1 else "others"
    seen["favourite start"] = "none" if statistic < CHI_SQUARED else favourite
    return seen


def arrays(batch: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y in NumPy. JAX has no int64 unless it is asked for it, so its int32 counts as int64."""
    x, y = batch
    return _numpy(x), _numpy(y)


def _numpy(ids: Any) -> np.ndarray:
    array = ids.detach().cpu().numpy() if _is_torch(ids) else np.asarray(ids)
    of_jax = type(ids).__module__.partition(".")[0] in ("jax", "jaxlib")
    return array.astype(np.int64) if of_jax and array.dtype == np.int32 else array


def _is_torch(array: Any) -> bool:
    return type(array).__module__.partition(".")[0] == "torch"


@handler
def checkpoint(module: Any, save: str, load: str, place: str) -> dict[str, Any]:
    """Save a model and its optimizer in the middle of a run, load both into fresh ones, and compare.

    Args:
        place: "path", "str", "file" or "buffer".
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            return _restored(
                getattr(module, save), getattr(module, load), place, Path(folder, "checkpoint.pt")
            )
        except Exception as error:
            return raised(error)


ITERATION = 1234


def _restored(save: Callable[..., Any], load: Callable[..., int], place: str, path: Path) -> dict[str, Any]:
    saved, fresh = _Run(seed=1, lr=0.01), _Run(seed=2, lr=0.5)
    for step in range(3):
        saved.step(step)
    before = fresh.states()
    buffer = io.BytesIO()
    if place == "buffer":
        save(saved.model, saved.optimizer, ITERATION, buffer)
        buffer.seek(0)
        iteration = load(buffer, fresh.model, fresh.optimizer)
    elif place == "file":
        with open(path, "wb") as out:
            save(saved.model, saved.optimizer, ITERATION, out)
        with open(path, "rb") as source:
            iteration = load(source, fresh.model, fresh.optimizer)
    else:
        where = str(path) if place == "str" else path
        save(saved.model, saved.optimizer, ITERATION, where)
        iteration = load(where, fresh.model, fresh.optimizer)
    right, found = saved.states(), fresh.states()
    seen = {
        part: "saved"
        if _equal(found[part], right[part])
        else "fresh"
        if _equal(found[part], before[part])
        else "other"
        for part in right
    }
    betas = fresh.optimizer.param_groups[0]["betas"]
    names = {ITERATION: "saved", ITERATION + 1: "one more", 0: "0", None: "None"}
    seen["tuples"] = "tuples" if isinstance(betas, tuple) else "lists"
    seen["iteration"] = names.get(iteration, "other")
    saved.step(9)
    fresh.step(9)
    seen["next_step"] = (
        "saved" if _equal(fresh.states()["parameters"], saved.states()["parameters"]) else "other"
    )
    return seen


class _Run:
    """A model with buffers, and an optimizer with two groups of parameters."""

    def __init__(self, seed: int, lr: float) -> None:
        import torch

        torch.manual_seed(seed)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)
        )
        self.model.register_buffer("scale", torch.rand(2, dtype=torch.float64))
        groups: list[dict[str, Any]] = [
            {"params": self.model[0].parameters(), "weight_decay": lr / 2},
            {"params": self.model[2].parameters()},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9 - lr, 0.99), eps=1e-6)

    def step(self, seed: int) -> None:
        import torch

        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        self.optimizer.zero_grad()
        (self.model(x) * self.model.scale.float()).pow(2).sum().backward()
        self.optimizer.step()

    def states(self) -> dict[str, Any]:
        """Return copies of the parts of the state."""
        import copy

        parameters = dict(self.model.named_parameters())
        model, optimizer = copy.deepcopy(self.model.state_dict()), copy.deepcopy(self.optimizer.state_dict())
        groups: list[dict[str, Any]] = [{**g, "betas": list(g["betas"])} for g in optimizer["param_groups"]]
        return {
            "parameters": {name: value for name, value in model.items() if name in parameters},
            "buffers": {name: value for name, value in model.items() if name not in parameters},
            "optimizer_state": optimizer["state"],
            "optimizer_options": groups,
        }


def _equal(a: Any, b: Any) -> bool:
    import torch

    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


class _Code:
    """Something whose unpickling calls a function."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


@handler
def checkpoint_of_code(module: Any, save: str, load: str) -> dict[str, Any]:
    """Return whether loading a file that holds code executes the code. Here it makes an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        path, made = Path(folder, "checkpoint.pt"), os.path.join(folder, "made")
        path.write_bytes(pickle.dumps(_Code(made), protocol=2))
        run = _Run(seed=1, lr=0.1)
        with contextlib.suppress(Exception):
            getattr(module, load)(path, run.model, run.optimizer)
        return {"code in the file": "is executed" if os.path.exists(made) else "is not executed"}
