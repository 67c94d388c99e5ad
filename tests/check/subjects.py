"""Subjects, mistakes and answers for the tests of diagnoses, without a process of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from lm.budgets import Dtype
from parity import oracle
from parity.case import Case, Given, Shape
from parity.check.answer import Answer, Ask
from parity.check.subjects import Array, Call, Subject
from parity.check.variants import predict
from parity.layers import LAYERS
from parity.mistakes import Mistake

TORCH = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


def subject(name: str, shapes: Sequence[Shape], arguments: Callable[[Given], dict[str, Any]]) -> Subject:
    """Return a subject of these shapes, with a case for each."""
    cases = tuple(Case(name, shape, seed) for seed, shape in enumerate(shapes))
    return Subject(name, (Call(f"run_{name}", arguments),), LAYERS[name], cases)


RMSNORM = subject(
    "rmsnorm",
    ((6, 11), (2, 3, 8), (1, 1, 5), (3, 2, 7)),
    lambda g: {"eps": g.statics["eps"], "weights": Array("weight"), "in_features": Array("x")},
)
ROPE = subject(
    "rope",
    ((5, 4), (3, 5, 6), (2, 3, 4, 2)),
    lambda g: {"theta": g.statics["theta"], "x": Array("x"), "token_positions": Array("positions")},
)
SILU = subject("silu", ((64,), (3, 5)), lambda g: {"in_features": Array("x")})
BLOCK = subject(
    "transformer_block",
    ((2, 6, 2, 8, 24), (3, 5, 4, 4, 18), (1, 1, 2, 4, 12)),
    lambda g: {
        "num_heads": g.statics["config"].num_heads,
        "weights": {name: Array(name) for name in g.arrays if name != "x"},
        "in_features": Array("x"),
    },
)
MODEL = subject(
    "transformer_lm",
    ((2, 6, 2, 2, 8, 24, 19), (3, 5, 1, 4, 4, 18, 13), (1, 1, 1, 2, 4, 8, 5)),
    lambda g: {"weights": {name: Array(name) for name in g.arrays}, "in_indices": Array("token_ids")},
)
SUBJECTS = {s.name: s for s in (RMSNORM, ROPE, SILU, BLOCK, MODEL)}


def _epsilon_outside(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    return x / (np.sqrt((x * x).sum(-1, keepdims=True) / x.shape[-1]) + eps) * weight


def _one_plus_weight(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    return x / np.sqrt((x * x).sum(-1, keepdims=True) / x.shape[-1] + eps) * (1 + weight)


def _root_detached(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    return x / np.sqrt((x.real**2).sum(-1, keepdims=True) / x.shape[-1] + eps) * weight


def _halves(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    K = x.shape[-1]
    angle = positions[..., None] * theta ** (-2 * np.arange(K // 2) / K)
    a, b = x[..., : K // 2], x[..., K // 2 :]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)


def _rotate(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    K = x.shape[-1]
    angle = positions[..., None] * theta ** (-2 * np.arange(K // 2) / K)
    a, b = x[..., ::2], x[..., 1::2]
    pairs = [a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)]
    return np.stack(pairs, -1).reshape(*pairs[0].shape[:-1], K)


def _from_one(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    return _rotate(x, positions + 1, theta)


def _backwards(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    return _rotate(x, -positions, theta)


def _unscaled(Q: np.ndarray, K: np.ndarray) -> np.ndarray:
    return np.einsum("...tk,...sk->...ts", Q, K)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _gate_swapped(weights: oracle.Weights, x: np.ndarray, kind: str) -> np.ndarray:
    gate, value = (x @ np.swapaxes(weights[f"w{i}.weight"], -1, -2) for i in (3, 1))
    return (gate * _sigmoid(gate) * value) @ np.swapaxes(weights["w2.weight"], -1, -2)


def _mistake(name: str, replaces: str, variant: Callable[..., np.ndarray]) -> Mistake:
    return Mistake(name, replaces, variant, "The code does this. That follows.", "y = f(x)", "A paper, eq. 1")


CATALOGUE = (
    _mistake("epsilon outside", "rmsnorm", _epsilon_outside),
    _mistake("1 + weight", "rmsnorm", _one_plus_weight),
    _mistake("root detached", "rmsnorm", _root_detached),
    _mistake("halves", "rope", _halves),
    _mistake("positions from 1", "rope", _from_one),
    _mistake("backwards", "rope", _backwards),
    _mistake("unscaled", "attention_scores", _unscaled),
    _mistake("sigmoid", "silu", _sigmoid),
    _mistake("gate swapped", "feed_forward", _gate_swapped),
)
MISTAKES = {mistake.name: mistake for mistake in CATALOGUE}


def of_torch(f: Callable[[Given, dict[str, torch.Tensor]], torch.Tensor]) -> Ask:
    """Return the answers of a function in torch."""

    def ask(given: Given, cotangent: np.ndarray | None = None, dtype: Dtype = "float32") -> Answer:
        tensors = {
            name: torch.tensor(a, dtype=TORCH[dtype]).requires_grad_() for name, a in given.arrays.items()
        }
        output = f(given, tensors)
        gradients: dict[str, np.ndarray | None] = {}
        if cotangent is not None:
            output.backward(torch.tensor(cotangent, dtype=output.dtype))
            gradients = {n: None if t.grad is None else t.grad.double().numpy() for n, t in tensors.items()}
        return Answer(
            output.detach().double().numpy(), gradients, str(output.dtype).removeprefix("torch."), "torch"
        )

    return ask


def of_jax(f: Callable[[Given, dict[str, jax.Array]], jax.Array]) -> Ask:
    """Return the answers of a function in JAX."""

    def ask(given: Given, cotangent: np.ndarray | None = None, dtype: Dtype = "float32") -> Answer:
        arrays = {name: jnp.asarray(a, dtype) for name, a in given.arrays.items()}
        output, backward = jax.vjp(lambda arrays: f(given, arrays), arrays)
        gradients: dict[str, np.ndarray | None] = {}
        if cotangent is not None:
            (of_arrays,) = backward(jnp.asarray(cotangent, output.dtype))
            gradients = {name: np.asarray(g, np.float64) for name, g in of_arrays.items()}
        return Answer(np.asarray(output, np.float64), gradients, str(output.dtype), "jax")

    return ask


def of_oracle(name: str, *mistakes: str, noise: float = 1e-7) -> Ask:
    """Return the oracle's answers with these mistakes of `CATALOGUE`, as `of_mistakes` does."""
    return of_mistakes(name, [MISTAKES[mistake] for mistake in mistakes], noise)


def of_mistakes(name: str, mistakes: Sequence[Mistake], noise: float = 0.0) -> Ask:
    """Return the oracle's answers with these mistakes, with this relative noise, and without gradients."""

    def ask(given: Given, cotangent: np.ndarray | None = None, dtype: Dtype = "float32") -> Answer:
        output = predict(SUBJECTS[name], mistakes, given)
        if output is None:
            return Answer()
        rng = np.random.default_rng(0)
        return Answer(output * (1 + noise * rng.standard_normal(output.shape)), {}, dtype, "numpy")

    return ask
