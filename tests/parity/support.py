"""What the tests of all layers share."""

from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from lm.backend import BackendName, load
from lm.budgets import BUDGETS, Dtype, relative_error
from lm.config import ModelConfig, TrainConfig
from parity.case import MASKS, POSITIONS, SCALES, Arrays, Case, Given
from parity.family import VARIANTS
from parity.layers import LAYERS
from parity.run import Modes, compare, evaluators

DTYPES: tuple[Dtype, ...] = tuple(BUDGETS)
THOROUGH = settings.default is not None and settings.default.max_examples > 100
COMPILER = "inductor" if THOROUGH else "aot_eager"


def examples(count: int) -> settings:
    """Return settings with `count` examples in the fast profile, and proportionally more in the thorough profile."""
    assert settings.default is not None
    return settings(max_examples=max(1, count * settings.default.max_examples // 100))


def cases(layer: str, *shapes: tuple[int, ...]) -> st.SearchStrategy[Case]:
    """Draw cases of a layer, only of these shapes if any are given."""
    return st.builds(
        Case,
        st.just(layer),
        st.sampled_from(shapes or LAYERS[layer].shapes),
        st.integers(0, 2**32 - 1),
        st.sampled_from(SCALES),
        st.sampled_from(MASKS),
        st.sampled_from(POSITIONS),
    )


def variant(**options: Any) -> int:
    """Return the seed of the first model of the family that has these options."""
    return next(i for i, chosen in enumerate(VARIANTS) if options.items() <= chosen.items())


def assert_parity(case: Case, dtype: Dtype, modes: Modes | None = None) -> None:
    """Check that torch, JAX and the oracle agree, forward and backward, with the fast forms and without."""
    __tracebackhide__ = True
    errors = [error for error in compare(case, dtype, modes) if not error.passed]
    assert not errors, "\n".join(map(str, errors))


def answers(
    layer: str,
    arrays: dict[str, np.ndarray],
    constants: dict[str, np.ndarray] | None = None,
    cotangent: np.ndarray | None = None,
    dtype: Dtype = "float32",
    **statics: Any,
) -> dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Return output and gradients by backend and mode, to test laws. The default cotangent is ones."""
    given = Given(arrays, constants or {}, statics)
    ones = np.ones(LAYERS[layer].oracle(given).shape) if cotangent is None else cotangent
    return _by_mode(layer, given, ones, dtype)


def outputs(
    layer: str,
    arrays: dict[str, np.ndarray],
    constants: dict[str, np.ndarray] | None = None,
    dtype: Dtype = "float32",
    **statics: Any,
) -> dict[str, np.ndarray]:
    """Return the output by backend and mode, without gradients, which take most of a compilation."""
    found = _by_mode(layer, Given(arrays, constants or {}, statics), None, dtype)
    return {label: output for label, (output, _) in found.items()}


def _by_mode(
    layer: str, given: Given, cotangent: np.ndarray | None, dtype: Dtype
) -> dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]:
    evaluate = evaluators()
    modes = {
        "torch": ("torch", "eager"),
        "torch plain": ("torch", "plain"),
        "jax": ("jax", "jit"),
        "jax plain": ("jax", "plain"),
    }
    return {
        label: evaluate[name](layer, given, cotangent, dtype, mode) for label, (name, mode) in modes.items()
    }


def logits(config: ModelConfig, weights: Arrays, token_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return a decoder's logits in float64 by backend, without gradients, which cost more time."""
    found: dict[str, np.ndarray] = {}
    training = TrainConfig(config, compute_dtype="float64")
    names: tuple[BackendName, ...] = ("torch", "jax")
    for name in names:
        backend = load(name, training)
        state = backend.load_state(training, weights.items(), None)
        found[name] = np.asarray(backend.make_logits(training)(state, token_ids), np.float64)
    return found


def normal(seed: int, *shape: int) -> np.ndarray:
    """Draw standard normal numbers that float32 holds exactly."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(np.float64)


def assert_close(a: Any, b: Any, dtype: Dtype = "float32", kind: str = "forward", flow: Any = 0.0) -> None:
    """Check that the norm-wise error of `a` is within this budget; if b is zero, the error is relative to `flow`."""
    __tracebackhide__ = True
    error = relative_error(np.asarray(a), np.broadcast_to(np.asarray(b, np.float64), np.shape(a)), flow)
    assert error <= getattr(BUDGETS[dtype], kind), f"{error} > the {kind} budget of {dtype}:\n{a}\n{b}"
