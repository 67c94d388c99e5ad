"""Each known mistake of a function, a layer or RoPE is one of its own, and another hand's code makes it as well.

A mistake may show only in a case of its own: see `CASES`.
"""

import re
from functools import cache

import numpy as np
import pytest

from lm.budgets import BUDGETS, ZERO, Dtype, relative_error
from parity import oracle
from parity.case import Case, Given
from parity.check.answer import Ask
from parity.layers import LAYERS
from parity.mistakes import MISTAKES, Mistake
from tests.check.injected import functional, layers, rope
from tests.check.injected.arrays import Framework
from tests.check.injected.ask import Implementation, ask
from tests.source import ROOT

INJECTED: dict[str, Implementation] = functional.INJECTED | layers.INJECTED | rope.INJECTED
SUBJECTS = (
    "softmax",
    "silu",
    "gelu",
    "gelu_tanh",
    "relu",
    "cross_entropy",
    "linear with bias",
    "embedding",
    "rmsnorm",
    "layernorm",
    "feed_forward",
    "swiglu",
    "rope",
)


ORACLES = {name: layer.oracle for name, layer in LAYERS.items()} | {
    "gelu_tanh": lambda given: oracle.gelu_tanh(given.arrays["x"])
}


def drawn(layer: str, shape: tuple[int, ...], seed: int, **options: float | str) -> Given:
    case = Case(layer, shape, seed, **options)  # type: ignore[arg-type]
    return LAYERS[layer].draw(np.random.default_rng(seed), case)


def rows(*numbers: float) -> Given:
    return Given({"x": np.array([numbers, numbers[::-1]])})


HUGE = drawn("cross_entropy", (3, 5, 7), 1, spread=8000.0)
LIKELY = drawn("cross_entropy", (3, 7), 2, spread=8000.0)
LIKELY.constants["targets"] = LIKELY.arrays["logits"].argmax(-1)

CASES: dict[str, list[Given]] = {
    # Axes 2 and -2 differ. Huge numbers overflow without the maximum, or with that of another row.
    "softmax": [
        drawn("softmax", (4, 3, 5), 0), drawn("softmax", (4, 3, 5), 1), drawn("softmax", (4, 3, 5), 4),
        drawn("softmax", (3, 4), 3, spread=8000.0),
    ],
    "silu": [drawn("silu", (3, 5), 0), rows(-1000.0, 2.0, 1000.0)],
    "gelu": [drawn("silu", (3, 5), 0)],
    "gelu_tanh": [drawn("silu", (3, 5), 0)],
    # The gradient at 0 differs between clamp, maximum and relu.
    "relu": [drawn("silu", (3, 5), 0), rows(-1.0, 0.0, 2.0)],
    # A target of 0 is taken for padding by some. Huge logits overflow, underflow or meet a bound;
    # with likely targets they only overflow.
    "cross_entropy": [drawn("cross_entropy", (3, 5, 7), 0), HUGE, LIKELY],
    # A square weight can be transposed unnoticed.
    "linear with bias": [drawn("linear with bias", shape, 0) for shape in ((2, 3, 5, 4), (3, 4, 4))],
    # With 4 ids, some are repeated.
    "embedding": [drawn("embedding", (2, 3, 4, 5), 0)],
    # Rows below epsilon show how it is added; seeds 0 and 1 have different epsilons.
    "rmsnorm": [drawn("rmsnorm", (2, 3, 6), seed, scale=scale) for seed, scale in ((0, 1.0), (1, 0.1), (2, 1e-3))],
    "layernorm": [drawn("layernorm", (2, 3, 6), seed, scale=scale) for seed, scale in ((0, 1.0), (1, 0.1), (2, 1e-3))],
    "feed_forward": [drawn("feed_forward", (3, 4, 13), seed) for seed in (0, 1, 2, 3)],
    "swiglu": [drawn("swiglu", (3, 4, 13), 0)],
    # Positions far from 0, with another theta, and positions that differ within a batch.
    "rope": [
        drawn("rope", (2, 5, 8), 0),
        drawn("rope", (2, 5, 8), 1, positions="from 1000"),
        drawn("rope", (2, 3, 8), 2)._replace(constants={"positions": np.array([[0, 1, 2], [7, 3, 900]])}),
    ],
}  # fmt: skip
REACHED = {
    "silu": ("silu",), "gelu": ("gelu",), "gelu_tanh": ("gelu_tanh",), "relu": ("relu",), "softmax": ("softmax",),
    "cross_entropy": ("token_cross_entropy", "cross_entropy"),
    "linear with bias": ("linear",), "embedding": ("embedding",), "rmsnorm": ("rmsnorm",), "layernorm": ("layernorm",),
    "feed_forward": ("silu", "gelu", "relu", "linear", "feed_forward"),
    "swiglu": ("silu", "linear", "feed_forward"),
    "rope": ("rope",),
}  # fmt: skip
"""The oracle's functions that a subject's answer goes through."""


Numbers = list[np.ndarray]
"""The output and the gradients."""


def candidates(subject: str) -> list[Mistake]:
    return [mistake for mistake in MISTAKES if mistake.replaces in REACHED[subject]]


def cotangent(given: Given, subject: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.random.default_rng(7).standard_normal(ORACLES[subject](given).shape)


def numbers(subject: str, given: Given) -> Numbers:
    """Return the oracle's output and gradients, as the oracle is at present."""

    def f(arrays: dict[str, np.ndarray]) -> np.ndarray:
        return ORACLES[subject](given._replace(arrays=arrays))

    with np.errstate(all="ignore"):
        return [f(given.arrays), *oracle.gradient(f, given.arrays, cotangent(given, subject)).values()]  # type: ignore[arg-type]


@cache
def answers(subject: str) -> dict[str, list[Numbers]]:
    """Return what the right function ("") and each mistake give for the subject's cases."""
    found = {"": [numbers(subject, given) for given in CASES[subject]]}
    for mistake in candidates(subject):
        with oracle.replaced(mistake.replaces, mistake.variant):
            found[mistake.name] = [numbers(subject, given) for given in CASES[subject]]
    return found


def error(a: np.ndarray, b: np.ndarray, flow: float, zero: float = ZERO) -> float:
    """Return the relative error of finite numbers, or infinity if other numbers are not finite."""
    if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return np.inf
    a, b = (np.where(np.isfinite(x), x, 0.0) for x in (a, b))
    return relative_error(a, b, flow, zero=zero)


def equal(a: list[Numbers], b: list[Numbers]) -> bool:
    """Whether no case tells two functions apart in float64."""
    pairs = [pair for both in zip(a, b, strict=True) for pair in zip(*both, strict=True)]
    return all(error(x, y, 1.0) < 1e-13 for x, y in pairs)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_mistake_is_one_of_its_own(subject: str) -> None:
    """On these cases no two mistakes give equal outputs and gradients."""
    wrong = {
        name: a for name, a in answers(subject).items() if not name or not equal(a, answers(subject)[""])
    }
    for i, a in enumerate(wrong):
        for b in list(wrong)[:i]:
            assert not equal(wrong[a], wrong[b]), f"{a!r} and {b!r}"


def test_every_mistake_differs_from_the_right_function_somewhere() -> None:
    for subject in SUBJECTS:
        for mistake in candidates(subject):
            homes = [s for s in SUBJECTS if mistake.replaces in REACHED[s]]
            assert any(not equal(answers(s)[mistake.name], answers(s)[""]) for s in homes), mistake.name


WIDE_ANGLES = {
    "RoPE: frequencies grow with the pair": 1e5,
    "RoPE: pairs counted from 0 in a formula from 1": 1e2,
}
"""The angles of these mistakes are larger than right ones, and so is their rounding error."""


def has_huge_numbers(given: Given) -> bool:
    return any(np.abs(x).max() > 80 for x in given.arrays.values())


@pytest.mark.parametrize(
    ("framework", "dtype"), [("torch", "float64"), ("torch", "float32"), ("jax", "float32")]
)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_another_hands_mistake_is_the_catalogues(subject: str, framework: Framework, dtype: Dtype) -> None:
    """The right function ("") and each mistake agree in outputs and gradients with torch's and JAX's autodiff."""
    right = answers(subject)[""]
    shown = [name for name, expected in answers(subject).items() if not name or not equal(expected, right)]
    # JAX runs the text that torch runs and compiles each mistake: every third mistake is enough.
    for name in shown[::3] if framework == "jax" else shown:
        expected = answers(subject)[name]
        for given, exact in zip(CASES[subject], expected, strict=True):
            # What overflows in float32 alone is no matter of the formula.
            if not (dtype == "float32" and has_huge_numbers(given)):
                assert_twins(ask(framework, INJECTED[subject], name), subject, name, given, exact, dtype)
            if framework == "jax":
                break  # one case: compiling takes the time


def assert_twins(twin: Ask, subject: str, name: str, given: Given, exact: Numbers, dtype: Dtype) -> None:
    incoming = cotangent(given, subject)
    flow, slack = float(np.linalg.norm(incoming)), WIDE_ANGLES.get(name, 1.0)
    answer = twin(given, incoming, dtype)
    assert answer.output is not None
    assert error(answer.output, exact[0], 0.0) <= slack * BUDGETS[dtype].forward, f"{name}: output"
    if not np.isfinite(exact[0]).all():
        return  # the complex step has no gradient of infinity
    for array, gradient in zip(given.arrays, exact[1:], strict=True):
        found = answer.gradients[array]
        found = np.zeros(gradient.shape) if found is None else found
        # A gradient that is small because softmax is saturated is relative to the incoming gradient.
        off = error(found, gradient, flow, zero=1.0 if has_huge_numbers(given) else ZERO)
        assert off <= slack * BUDGETS[dtype].gradient, f"{name}: gradient of {array}"


def test_every_pitfall_is_an_entry() -> None:
    replaced = {name for names in REACHED.values() for name in names}
    headings = set(
        re.findall(r"^### (.+)$", (ROOT / "docs/pitfalls.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    for mistake in MISTAKES:
        if mistake.pitfall and mistake.replaces in replaced:
            assert mistake.pitfall in headings, mistake.name


def test_every_explanation_is_two_sentences() -> None:
    for mistake in MISTAKES:
        assert len(re.findall(r"[.:;](?: |$)", mistake.explanation)) >= 2, mistake.name
        assert mistake.formula, mistake.name
        assert mistake.source, mistake.name
