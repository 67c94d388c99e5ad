"""The numeric subjects of a training step: optimizers and gradient clipping."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity import oracle
from parity.case import Arrays, Case, Given, Layer, Rng
from parity.check.subjects import Arguments, Array, Call, Subject

SHAPES = {"a": (3, 4), "b": (5,), "c": (2, 3)}
"""Several weights, so that what is shared between them shows."""
OPTIONS: Sequence[Mapping[str, Any]] = (
    {"betas": (0.9, 0.99), "eps": 1e-3, "weight_decay": 0.3, "lrs": (0.1, 0.05, 0.2, 0.1)},
    {"betas": (0.8, 0.95), "eps": 1e-8, "weight_decay": 0.0, "lrs": (0.1, 0.1, 0.03)},
    {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 2.0, "lrs": (0.05, 0.08)},
)
"""Of AdamW: an epsilon and a decay that show their places, none, and the usual ones with a large decay."""

OUTSIDE = {"adamw": "a weight without gradient", "clip_gradients": "parameters from an iterator"}
"""What is outside the course's contract in the cases whose mask is "empty row"."""


def _steps(rng: Rng, case: Case, names: str) -> Given:
    """Draw weights and their gradients in each step, of sizes from 1e-4 to 1. "c" has no gradient.

    A case with a shape (steps, size) has one weight and as many steps.
    """
    statics, shapes = dict(OPTIONS[case.seed % len(OPTIONS)]), SHAPES
    if case.shape:
        names, shapes = "a", {"a": case.shape[1:]}
        statics["lrs"] = statics["lrs"][: case.shape[0]]
    arrays: Arrays = {f"{name}.weight": rng.standard_normal(shapes[name]) for name in names}
    for t in range(len(statics["lrs"])):
        for name in names.replace("c", ""):
            sizes = 10.0 ** -rng.integers(0, 5, shapes[name]) * case.scale
            arrays[f"{t}.{name}.gradient"] = rng.standard_normal(shapes[name]) * sizes
    return Given(arrays, statics=statics)


def _draw(rng: Rng, case: Case) -> Given:
    return _steps(rng, case, "acb" if case.mask == "empty row" else "ab")


def _run(given: Given, optimizer: oracle.AdamW | oracle.SGD) -> np.ndarray:
    """Return all weights after each step."""
    weights = {name: a for name, a in given.arrays.items() if name.endswith("weight")}
    after = []
    for t, lr in enumerate(given.statics["lrs"]):
        gradients = {
            name: given.arrays[gradient]
            for name in weights
            if (gradient := f"{t}.{name.removesuffix('weight')}gradient") in given.arrays
        }
        weights = {**weights, **optimizer.step(weights, gradients, lr)}
        after.append(np.concatenate([w.ravel() for w in weights.values()]))
    return np.stack(after)


def _adamw(given: Given) -> np.ndarray:
    s = given.statics
    return _run(given, oracle.AdamW(s["betas"], s["eps"], s["weight_decay"]))


def _arguments(given: Given) -> Arguments:
    """Return weights, and for each step a list of gradients, None for a weight without gradient."""
    names = [name.removesuffix(".weight") for name in given.arrays if name.endswith("weight")]
    gradients = [
        [Array(g) if (g := f"{t}.{name}.gradient") in given.arrays else None for name in names]
        for t in range(len(given.statics["lrs"]))
    ]
    return {"weights": [Array(f"{name}.weight") for name in names], "gradients": gradients, **given.statics}


def _sgd_arguments(given: Given) -> Arguments:
    arguments = _arguments(given)
    return {name: arguments[name] for name in ("weights", "gradients", "lrs")}


def _draw_clipped(rng: Rng, case: Case) -> Given:
    """Draw gradients of a norm of about 4 times the scale, and a limit below or above it."""
    arrays = {f"{name}.gradient": rng.standard_normal(shape) * case.scale for name, shape in SHAPES.items()}
    norm = float(oracle.global_norm({name: a.ravel() for name, a in arrays.items()}))
    limit = (0.3, 0.6, 3.0, 0.1)[case.seed % 4]
    return Given(arrays, statics={"max_norm": norm * limit, "as_iterator": case.mask == "empty row"})


def _clipped(given: Given) -> np.ndarray:
    clipped, _ = oracle.clip_gradients(given.arrays, given.statics["max_norm"])
    return np.concatenate([gradient.ravel() for gradient in clipped.values()])


def _clip_arguments(given: Given) -> Arguments:
    return {"gradients": [Array(name) for name in given.arrays], **given.statics}


OPTIMIZERS = (
    Subject(
        "adamw",
        (
            Call("get_adamw_cls", _arguments, through="adamw"),
            Call("AdamW", _arguments, through="adamw"),
            Call("adamw_update", _arguments, through="adamw"),
            Call("adamw_step", _arguments, through="adamw"),
        ),
        Layer((), _draw, _adamw, differentiable=False),
        tuple(Case("adamw", (), seed) for seed in range(len(OPTIONS))),
        (Case("adamw", (), 0, mask="empty row"),),
    ),
    Subject(
        "sgd",
        (Call("get_sgd_cls", _sgd_arguments, through="sgd"), Call("SGD", _sgd_arguments, through="sgd")),
        Layer((), _draw, lambda given: _run(given, oracle.SGD()), differentiable=False),
        (Case("sgd", (), 0), Case("sgd", (), 1)),
    ),
    Subject(
        "clip_gradients",
        (
            Call("run_gradient_clipping", _clip_arguments, through="clip"),
            Call("clip_gradients", _clip_arguments, through="clip"),
        ),
        Layer((), _draw_clipped, _clipped, differentiable=False),
        (
            Case("clip_gradients", (), 0),
            Case("clip_gradients", (), 1, scale=0.01),
            Case("clip_gradients", (), 2),
            Case("clip_gradients", (), 3, scale=3.0),
        ),
        (Case("clip_gradients", (), 4, mask="empty row"),),
    ),
)
