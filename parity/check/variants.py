"""What a function would return if it had certain mistakes, and how far an answer is from that."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lm.budgets import BUDGETS, EPSILON, ZERO, Dtype, as_dtype
from parity import oracle
from parity.case import Given
from parity.check.answer import Answer
from parity.check.subjects import Subject
from parity.mistakes import Mistake

Mistakes = tuple[Mistake, ...]
DIRECTIONS = 24
"""Gradients are compared by their components along this many random directions."""
SKETCH = 2.0
"""The components' root mean square is less than this times the norm of a difference, except once in a million."""
STEP = 1e-30


@dataclass(frozen=True, eq=False)
class Asked:
    """A case with the answer of the function under check."""

    given: Given
    cotangent: np.ndarray
    answer: Answer
    dtype: Dtype = "float32"
    """Precision that the answer is held to."""
    predicted: dict[str, Any] = field(default_factory=dict)
    """What was computed about this case before."""

    @property
    def gradients(self) -> dict[str, np.ndarray]:
        """The gradients that were computed."""
        return {name: g for name, g in self.answer.gradients.items() if g is not None}


@contextmanager
def made(mistakes: Sequence[Mistake]) -> Iterator[None]:
    """Let the oracle make these mistakes."""
    with ExitStack() as stack, np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for mistake in mistakes:
            stack.enter_context(oracle.replaced(mistake.replaces, mistake.variant))
        yield


def predict(subject: Subject, mistakes: Sequence[Mistake], given: Given) -> np.ndarray | None:
    """Return the output with these mistakes; none if they cannot be made on this case."""
    with made(mistakes):
        try:
            return np.asarray(subject.layer.oracle(given))
        except Exception:  # a variant may fail in any way on sizes that it was not made for
            return None


def distance(actual: np.ndarray | None, expected: np.ndarray | None) -> float:
    """Return ||a - b|| / ||b|| over the finite elements; infinity if shapes, NaN or infinite elements differ."""
    if actual is None or expected is None or actual.shape != expected.shape:
        return math.inf
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(actual)):
        return math.inf
    if not np.array_equal(np.isnan(actual), np.isnan(expected)):
        return math.inf
    difference = float(np.linalg.norm(actual[finite] - expected[finite]))
    norm = float(np.linalg.norm(expected[finite]))
    return 0.0 if not difference else difference / norm if norm else math.inf


def output_of(subject: Subject, mistakes: Mistakes, asked: Asked) -> np.ndarray | None:
    """Return `predict`, computed once for each case."""
    key = "output of " + "\n".join(m.name for m in mistakes)
    if key not in asked.predicted:
        asked.predicted[key] = predict(subject, mistakes, asked.given)
    result: np.ndarray | None = asked.predicted[key]
    return result


def forward_error(subject: Subject, mistakes: Mistakes, asked: Asked) -> float:
    """Return how far the answer's output is from the one with these mistakes."""
    error = distance(asked.answer.output, output_of(subject, mistakes, asked))
    if error == math.inf and asked.dtype == "float32":
        expected = _in_single(subject, mistakes, asked)
        if expected is not None and not np.isfinite(expected).all():
            return distance(asked.answer.output, expected)
    return error


def _in_single(subject: Subject, mistakes: Mistakes, asked: Asked) -> np.ndarray | None:
    """Return `predict` in float32, since what overflows in float32 need not overflow in float64."""
    single = {name: a.astype(np.float32) for name, a in asked.given.arrays.items()}
    output = predict(subject, mistakes, asked.given._replace(arrays=single))
    return None if output is None else output.astype(np.float64)


def _directions(array: np.ndarray, name: str) -> np.ndarray:
    rng = np.random.default_rng(sum(map(ord, name)))
    return rng.standard_normal((DIRECTIONS, *array.shape))


def slopes(subject: Subject, mistakes: Mistakes, asked: Asked, name: str) -> np.ndarray | None:
    """Return the components of the gradient with these mistakes along `DIRECTIONS` directions of an array.

    They come from the complex step (`parity.oracle.gradients`), so their cost does not grow with the array.
    """
    key = f"slopes of {name}, " + "\n".join(m.name for m in mistakes)
    if key not in asked.predicted:
        asked.predicted[key] = _slopes(subject, mistakes, asked, name)
    result: np.ndarray | None = asked.predicted[key]
    return result


def _slopes(
    subject: Subject, mistakes: Mistakes, asked: Asked, name: str, dtype: type = np.complex128
) -> np.ndarray | None:
    arrays = {n: a.astype(dtype(0).real.dtype) for n, a in asked.given.arrays.items()}
    array, size = arrays[name], asked.cotangent.size
    steps: np.ndarray = (1j * STEP * _directions(array, name)).astype(dtype)

    def changes(moved: np.ndarray) -> np.ndarray | None:
        return predict(subject, mistakes, asked.given._replace(arrays={**arrays, name: moved}))

    # All at once along further leading axes. A variant that knows only the axes of the case takes one at a time.
    at_once = changes(array + steps.reshape(-1, 1, 1, 1, 1, *array.shape))
    if at_once is not None and at_once.size in (size, DIRECTIONS * size):
        moved = np.broadcast_to(at_once.imag.reshape(-1, size), (DIRECTIONS, size))
        return moved @ asked.cotangent.ravel() / STEP
    one_by_one = [changes(array + step) for step in steps]
    if any(y is None or y.size != size for y in one_by_one):
        return None
    return np.array([y.imag.ravel() @ asked.cotangent.ravel() / STEP for y in one_by_one if y is not None])


def gradient_error(subject: Subject, mistakes: Mistakes, asked: Asked, name: str) -> float:
    """Return how far the answer's gradient is from the one with these mistakes, to a factor of `SKETCH`.

    A gradient that is zero in exact arithmetic, or less than rounding, is judged by the norm of the incoming gradient.
    """
    actual = asked.gradients[name]
    expected = slopes(subject, mistakes, asked, name)
    if expected is None or actual.shape != asked.given.arrays[name].shape:
        return math.inf
    directions = _directions(actual, name).reshape(DIRECTIONS, -1)
    components = directions @ actual.ravel()
    difference = float(np.linalg.norm(components - expected))
    norm, flow = float(np.linalg.norm(expected)), float(np.linalg.norm(asked.cotangent)) * DIRECTIONS**0.5
    if np.isnan(components).all() and np.isfinite(expected).all() and asked.dtype == "float32":
        # What overflows in float32 need not overflow in float64.
        single = _slopes(subject, mistakes, asked, name, np.complex64)
        expected = expected if single is None else single
        difference = float(np.linalg.norm(components - expected))
    if not np.isfinite(difference):
        # The directions do not tell which elements are NaN.
        return 0.0 if np.isnan(components).all() and np.isnan(expected).all() else math.inf
    scale = flow if norm <= max(ZERO, EPSILON[asked.dtype]) * flow else norm
    return 0.0 if not difference else difference / scale if scale else math.inf


def budget(subject: Subject, dtype: Dtype, gradient: bool) -> float:
    """Return the budget of a subject's output, or of its gradients."""
    forward, backward = BUDGETS[dtype][2:] if subject.layer.whole_model else BUDGETS[dtype][:2]
    return backward if gradient else forward


def condition(
    f: Callable[[Given], np.ndarray | None], given: Given, draws: int = 4, step: float = 1e-7
) -> float:
    """Return the relative change of f for a relative change of each input element, measured in random directions."""
    rng, worst, before = np.random.default_rng(0), 0.0, f(given)
    for _ in range(draws):
        moved = {name: a * (1 + step * rng.choice([-1, 1], a.shape)) for name, a in given.arrays.items()}
        worst = max(worst, distance(f(given._replace(arrays=moved)), before))
    return worst / step


def fits(subject: Subject, mistakes: Mistakes, asked: Asked, gradients: bool = False) -> bool:
    """Whether the answer agrees with these mistakes within the budget, or within rounding times their condition."""

    def agrees(error: float, gradient: bool, f: Callable[[Given], np.ndarray | None]) -> bool:
        bound = budget(subject, asked.dtype, gradient) * (SKETCH if gradient else 1)
        if error <= bound:
            return True
        return error <= 1e3 * bound and error <= EPSILON[asked.dtype] * condition(f, asked.given)

    if not gradients:
        error = forward_error(subject, mistakes, asked)
        return agrees(error, False, lambda given: predict(subject, mistakes, given))
    if asked.answer.output is None or not np.isfinite(asked.answer.output).all():
        return True  # gradients of NaN say nothing more
    return all(
        agrees(
            gradient_error(subject, mistakes, asked, name),
            True,
            lambda given, name=name: _slopes(
                subject, mistakes, Asked(given, asked.cotangent, asked.answer), name
            ),  # type: ignore[misc]
        )
        for name in asked.gradients
    )


def differ(subject: Subject, a: Mistakes, b: Mistakes, asked: Asked) -> float:
    """Return by how many budgets two sets of mistakes differ in the output, or in a gradient that is known."""
    a_output, b_output = output_of(subject, a, asked), output_of(subject, b, asked)
    apart = distance(a_output, b_output) / budget(subject, asked.dtype, gradient=False)
    if asked.dtype == "float32":
        a_single, b_single = _in_single(subject, a, asked), _in_single(subject, b, asked)
        if distance(a_single, b_single) == math.inf:
            return math.inf
    for name in asked.gradients:
        a_slopes, b_slopes = slopes(subject, a, asked, name), slopes(subject, b, asked, name)
        flow = float(np.linalg.norm(asked.cotangent)) * DIRECTIONS**0.5
        error = math.inf
        if a_slopes is not None and b_slopes is not None:
            change = float(np.linalg.norm(a_slopes - b_slopes))
            norm = float(np.linalg.norm(b_slopes))
            error = change / (norm if norm > ZERO * flow else flow)
        apart = max(apart, error / budget(subject, asked.dtype, gradient=True))
    return apart


def rounded(given: Given, dtype: Dtype) -> Given:
    """Return the case with arrays that `dtype` holds exactly."""
    return given._replace(arrays={name: as_dtype(a, dtype) for name, a in given.arrays.items()})


def reached(subject: Subject, given: Given, names: Sequence[str]) -> set[str]:
    """Return which of the oracle's functions the subject's oracle calls on a case."""
    called: set[str] = set()

    def recorder(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            called.add(name)
            return original(*args, **options)

        return call

    with ExitStack() as stack:
        for name in names:
            try:
                stack.enter_context(oracle.replaced(name, recorder(name, oracle.function(name))))
            except LookupError:
                continue
        subject.layer.oracle(given)
    return called
