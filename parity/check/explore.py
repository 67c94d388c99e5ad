"""Measure what no known mistake explains: everything about a function's answers that can be said in a sentence."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lm.budgets import EPSILON, ZERO, Dtype, relative_error
from parity import oracle
from parity.case import Given
from parity.check.answer import Answer, Ask
from parity.check.measure import Difference, describe
from parity.check.parts import stages
from parity.check.precision import ROUGH, Low, bits_lost, explain, roughness
from parity.check.probes import Output, dependencies, off_only_if, repeats
from parity.check.subjects import Subject
from parity.check.variants import Asked, budget, distance, fits, forward_error, reached

LARGEST = 4096
"""Most elements of an array whose whole gradient is computed."""
FUNCTIONS = (
    *(
        "softmax",
        "silu",
        "gelu",
        "relu",
        "token_cross_entropy",
        "cross_entropy",
        "global_norm",
        "clip_gradients",
    ),
    *("linear", "embedding", "rmsnorm", "layernorm", "feed_forward", "rope", "attention_scores"),
    *("attention_weights", "scaled_dot_product_attention", "multihead_self_attention", "transformer_block"),
)
"""The oracle's functions whose low precision may explain an error: inner ones before those that call them."""
HIGHER: dict[Dtype, Dtype] = {"float32": "float64", "bfloat16": "float32"}


def measure(subject: Subject, ask: Ask, asked: Sequence[Asked], dtype: Dtype) -> list[str]:
    """Return sentences about how the answers differ from the right ones."""
    if not asked:
        return []
    off = [a for a in asked if not fits(subject, (), a)]
    if not off:
        return _gradients(subject, asked)
    largest = max(off, key=lambda a: a.answer.output.size if a.answer.output is not None else 0)

    def output(given: Given) -> np.ndarray | None:
        return ask(given, dtype=dtype).output

    if unstable := repeats(output, largest.given):
        return [unstable]
    found = []
    if condition := off_only_if([a.given for a in asked], [any(a is b for b in off) for a in asked]):
        found.append(condition)
    if rounding := _precision(subject, ask, largest, dtype):
        return found + rounding
    off = [
        a for a in off if a.answer.output is not None and a.answer.output.shape == _right(subject, a).shape
    ]
    if wrong_shape := _shape(largest.answer, _right(subject, largest)):
        return found + [wrong_shape]
    differences = [_difference(subject, a) for a in off]
    for finite in (True, False):
        chosen = [d for d in differences if np.isfinite(d.actual).all() == finite]
        found += describe(chosen) if chosen else []
    of_largest_batch = max(off, key=lambda a: _difference(subject, a).exact.shape[:1])
    found += dependencies(output, subject.layer.oracle, of_largest_batch.given)
    return found + _part(subject, output, largest)


def _part(subject: Subject, output: Output, asked: Asked) -> list[str]:
    """Return the part of a function with several that is off, because the function is right without it."""
    bound, right = 10 * budget(subject, asked.dtype, gradient=False), ""
    *parts, whole = stages(asked.given)
    for stage in [*parts, whole]:
        if distance(output(stage.given), np.asarray(subject.layer.oracle(stage.given))) > bound:
            return [f"{right}it is off {stage.how}: look at {stage.suspects}"] if parts else []
        right = f"it is right {stage.how}; "
    return []


def _right(subject: Subject, asked: Asked) -> np.ndarray:
    return np.asarray(subject.layer.oracle(asked.given))


def _shape(answer: Answer, right: np.ndarray) -> str:
    if answer.output is None or answer.output.shape == right.shape:
        return ""
    text = f"the output has shape {answer.output.shape}, not {right.shape}"
    if answer.output.size == right.size and distance(answer.output.reshape(right.shape), right) < 1e-4:
        return f"{text}; its numbers are right"
    for i in range(right.ndim):
        for j in range(i):
            if distance(answer.output, right.swapaxes(i, j)) < 1e-4:
                return f"{text}: axes {j} and {i} are transposed"
    return text


def _difference(subject: Subject, asked: Asked) -> Difference:
    exact, actual = _right(subject, asked), asked.answer.output
    assert actual is not None
    return Difference(asked.given, "output", actual, exact, budget(subject, asked.dtype, gradient=False))


def _gradients(subject: Subject, asked: Sequence[Asked]) -> list[str]:
    """Describe the gradients that are off although the outputs are right."""
    found, right = [], []
    for name in dict.fromkeys(name for a in asked for name in a.gradients):
        differences, worst = [], 0.0
        for a in asked:
            if name not in a.gradients or a.given.arrays[name].size > LARGEST:
                continue
            exact = _exact_gradient(subject, a, name)
            d = Difference(a.given, name, a.gradients[name], exact, budget(subject, a.dtype, gradient=True))
            if d.actual.shape != exact.shape:
                continue
            flow = float(np.linalg.norm(a.cotangent))
            error = relative_error(d.actual, exact, flow, zero=max(ZERO, EPSILON[a.dtype]))
            if not error <= d.bound:
                differences.append(d)
                worst = max(worst, error)
        sentences = describe(differences) if differences else []
        if differences and not sentences:
            sentences = [f"the gradient of {name} is off by {worst:.0e}"]
        found += sentences
        right += [] if differences else [name]
    if found:
        found.insert(
            0, "the output is right" + (f", and so is the gradient of {', '.join(right)}" if right else "")
        )
    return found


def _exact_gradient(subject: Subject, asked: Asked, name: str) -> np.ndarray:
    def output(arrays: Any) -> np.ndarray:
        return subject.layer.oracle(asked.given._replace(arrays={**asked.given.arrays, **arrays}))

    return oracle.gradient(output, {name: asked.given.arrays[name]}, asked.cotangent)[name]


def _precision(subject: Subject, ask: Ask, asked: Asked, dtype: Dtype) -> list[str]:
    """Return whether the function is right in a higher precision, and what in low precision explains its error."""
    error, actual = forward_error(subject, (), asked), asked.answer.output
    if not 0 < error < 0.2 or actual is None:
        return []
    right = np.asarray(subject.layer.oracle(asked.given))
    found = _right_in_higher(ask, asked, right, error, dtype)
    if not found:
        if dtype == "bfloat16" or not _rounds(ask, asked, right, error, dtype):
            return []
        found = [f"it rounds: for tiny changes of the inputs the output moves in steps, of about {error:.0e}"]
    lows: tuple[Low, ...] = ("bfloat16", "float16", "float32")

    def simulate(name: str, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> np.ndarray:
        with oracle.replaced(name, change(oracle.function(name))):
            return np.asarray(subject.layer.oracle(asked.given))

    called = reached(subject, asked.given, FUNCTIONS)
    names = [name for name in FUNCTIONS if name in called]
    text = explain(actual, right, simulate, names, lows)
    return found + ([text] if text else [])


def _rounds(ask: Ask, asked: Asked, right: np.ndarray, error: float, dtype: Dtype) -> bool:
    """Whether the output moves in steps, in float64 if the function takes that."""
    in_float64 = ask(asked.given, dtype="float64")
    if in_float64.dtype == "float64":
        dtype, error = "float64", distance(in_float64.output, right)
    if not EPSILON[dtype] * 1000 < error < 1:
        return False  # the type's own roundings are as large
    return roughness(lambda given: ask(given, dtype=dtype).output, asked.given, error) > ROUGH


def _right_in_higher(ask: Ask, asked: Asked, right: np.ndarray, error: float, dtype: Dtype) -> list[str]:
    higher = HIGHER.get(dtype)
    if higher is None:
        return []
    answer = ask(asked.given, dtype=higher)
    in_higher = distance(answer.output, right)
    if answer.dtype != higher or in_higher > error / 100:
        return []
    return [f"it is right in {higher} (to {in_higher:.0e}); {dtype} {bits_lost(error, dtype)}"]
