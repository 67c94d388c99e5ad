"""The mistakes of attention, heads, blocks and models: each is what it says, and no two are one."""

from collections.abc import Callable
from functools import cache, partial
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pytest

from lm.budgets import BUDGETS, relative_error
from lm.config import ModelConfig
from parity import draws, oracle
from parity.case import Case, Given
from parity.layers import LAYERS
from parity.mistakes import MISTAKES, Mistake
from tests.check.injected import attention, block, heads, model
from tests.check.injected.arrays import FRAMEWORKS, Framework, Tree, run

INJECTED = attention.INJECTED | heads.INJECTED | block.INJECTED | model.INJECTED


class Ground(NamedTuple):
    """Where mistakes of these modules show: a layer and its cases."""

    modules: tuple[str, ...]
    layer: str
    givens: Callable[[], list[Given]]


def drawn(draw: Callable[..., Given], shape: tuple[int, ...], seed: int, **options: Any) -> Given:
    return draw(np.random.default_rng(seed), Case("", shape, seed, **options))


def attentions() -> list[Given]:
    draw = partial(drawn, draws.attention)
    return [
        draw((2, 5, 5, 4, 3), 0),
        draw((2, 4, 4, 3, 5), 1, mask="random"),
        draw((3, 3, 6, 4, 5), 2, mask="empty row"),
        draw((2, 3, 4, 2, 3), 3, mask="full"),
    ]


def multiheads() -> list[Given]:
    plain = drawn(draws.multihead_rope, (2, 5, 24, 4), 0, positions="random")
    grouped = drawn(draws.grouped, (2, 5, 24, 4, 2), 1)
    positions = {"positions": np.array([0, 1, 3, 4, 8])}
    # With as many heads for keys as for queries, all projections have one shape, and biases.
    whole = drawn(draws.grouped, (2, 5, 24, 4, 4), 2)
    return [
        plain,
        grouped._replace(constants=grouped.constants | positions, statics=grouped.statics | {"theta": 100.0}),
        whole,
    ]


def config_of(layers: int, **options: Any) -> ModelConfig:
    sizes: dict[str, Any] = {
        "vocab_size": 7,
        "context_length": 6,
        "d_model": 8,
        "num_heads": 2,
        "d_ff": 5,
        "rope_theta": 100.0,
    }
    return ModelConfig(num_layers=layers, **sizes, **options)


def a_block(seed: int, **options: Any) -> Given:
    rng, config = np.random.default_rng(seed), config_of(1, **options)
    arrays = {"x": rng.standard_normal((2, 4, 8))}
    arrays |= oracle.submodule(draws.model_weights(rng, config), "layers.0.")
    return Given(arrays, {"mask": oracle.causal_mask(4), "positions": np.arange(4)}, {"config": config})


def blocks() -> list[Given]:
    return [a_block(0), a_block(1, norm_position="post"), a_block(2, block="parallel")]


def a_model(seed: int, **options: Any) -> Given:
    rng, config = (
        np.random.default_rng(seed),
        config_of(1 if "sinusoidal" in options.values() else 2, **options),
    )
    return Given(
        draws.model_weights(rng, config), {"token_ids": rng.integers(0, 7, (2, 4))}, {"config": config}
    )


def models() -> list[Given]:
    return [a_model(0), a_model(1, position="learned"), a_model(2, position="sinusoidal")]


def an_encoder(seed: int) -> Given:
    given = a_model(seed, architecture="encoder", position="learned")
    return given._replace(constants=given.constants | {"num_tokens": np.array([4, 1])})


def a_prefix_decoder(seed: int) -> Given:
    rng, config = np.random.default_rng(seed), config_of(2, architecture="encoder_decoder", prefix_length=4)
    arrays = oracle.submodule(draws.model_weights(rng, config), "decoder.")
    arrays["x"] = rng.standard_normal((2, 4, 8))
    return Given(
        arrays, {"token_ids": rng.integers(0, 7, (2, 3)), "num_tokens": np.array([4, 1])}, {"config": config}
    )


GROUNDS = {
    "attention": Ground(("attention",), "scaled_dot_product_attention", attentions),
    "heads": Ground(("heads",), "multihead_self_attention", multiheads),
    "block": Ground(("block",), "transformer_block", blocks),
    "model": Ground(("model",), "transformer_lm", models),
    "encoder": Ground(("sequences",), "transformer_encoder", lambda: [an_encoder(0)]),
    "prefix decoder": Ground(("sequences",), "prefix_decoder", lambda: [a_prefix_decoder(0)]),
}
OF_ENCODER = {"causal mask in an encoder", "padding attended to"}


def mistakes_of(name: str) -> list[Mistake]:
    """Return the mistakes whose own ground this is."""
    modules = {f"parity.mistakes.{module}" for module in GROUNDS[name].modules}
    here = [m for m in MISTAKES if m.variant.__module__ in modules]
    if name in ("encoder", "prefix decoder"):
        return [m for m in here if (m.name in OF_ENCODER) == (name == "encoder")]
    return here


ALL = [(ground, mistake) for ground in GROUNDS for mistake in mistakes_of(ground)]


def right(ground: str) -> Callable[[Given], np.ndarray]:
    return LAYERS[GROUNDS[ground].layer].oracle


def wrong(ground: str, mistake: Mistake) -> Callable[[Given], np.ndarray]:
    def call(given: Given) -> np.ndarray:
        with oracle.replaced(mistake.replaces, mistake.variant):
            return right(ground)(given)

    return call


@cache
def cotangents(ground: str) -> list[tuple[Given, np.ndarray]]:
    """Return the cases, each with a cotangent."""
    rng = np.random.default_rng(9)
    return [(given, rng.standard_normal(right(ground)(given).shape)) for given in GROUNDS[ground].givens()]


@cache
def outputs(ground: str, mistake: Mistake | None) -> list[np.ndarray]:
    """Return the outputs of all cases."""
    f = wrong(ground, mistake) if mistake else right(ground)
    return [f(given) for given, _ in cotangents(ground)]


@cache
def gradients(ground: str, mistake: Mistake | None, case: int) -> dict[str, np.ndarray]:
    """Return the gradients of one case, by the complex step."""
    f = wrong(ground, mistake) if mistake else right(ground)
    given, cotangent = cotangents(ground)[case]
    return oracle.gradient(lambda arrays: f(given._replace(arrays=dict(arrays))), given.arrays, cotangent)


def differ(a: np.ndarray, b: np.ndarray, flow: float = 0.0) -> bool:
    return (
        not np.array_equal(np.isnan(a), np.isnan(b))
        or relative_error(np.nan_to_num(a), np.nan_to_num(b), flow) > 1e-9
    )


def telling_cases(ground: str, mistake: Mistake | None, other: Mistake | None) -> list[int]:
    """Return the cases whose outputs tell two mistakes apart, or, if there is none, those whose gradients do."""
    cases = range(len(cotangents(ground)))
    ours, theirs = outputs(ground, mistake), outputs(ground, other)
    telling = [case for case in cases if differ(ours[case], theirs[case])]
    return telling or [case for case in cases if gradients_differ(ground, mistake, other, case)]


def gradients_differ(ground: str, mistake: Mistake | None, other: Mistake | None, case: int) -> bool:
    if not np.isfinite(outputs(ground, mistake)[case]).all():
        return False
    flow = float(np.linalg.norm(cotangents(ground)[case][1]))
    ours, theirs = gradients(ground, mistake, case), gradients(ground, other, case)
    return any(differ(ours[name], theirs[name], flow) for name in theirs)


def assert_agrees(ground: str, mistake: Mistake | None, framework: Framework, case: int) -> None:
    """Hold the injected implementation's output and gradients to the oracle with the mistake."""
    given, cotangent = cotangents(ground)[case]

    def injected(xp: Any, arrays: Tree) -> Any:
        return INJECTED[GROUNDS[ground].layer](xp, arrays, given, mistake.name if mistake else "")

    output, autodiff = run(framework, injected, given.arrays, cotangent=cotangent)
    expected = outputs(ground, mistake)[case]
    np.testing.assert_array_equal(np.isnan(output), np.isnan(expected))
    error = relative_error(np.nan_to_num(output), np.nan_to_num(expected))
    assert error < BUDGETS["float64"].model_forward, case
    if not np.isfinite(output).all():
        return
    for name, exact in gradients(ground, mistake, case).items():
        found = np.zeros_like(exact) if autodiff[name] is None else np.asarray(autodiff[name])
        error = relative_error(found, exact, float(np.linalg.norm(cotangent)))
        assert error < BUDGETS["float64"].model_gradient, (name, case)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("ground", GROUNDS)
def test_the_injected_implementation_without_a_mistake_is_right(ground: str, framework: Framework) -> None:
    """JAX runs the text that torch runs and compiles each case: one case is enough."""
    for case in range(len(cotangents(ground)) if framework == "torch" else 1):
        assert_agrees(ground, None, framework, case)


@pytest.mark.parametrize(("ground", "mistake"), ALL, ids=[f"{g}: {m.name}" for g, m in ALL])
def test_a_mistake_shows_and_is_what_the_injected_implementation_does(ground: str, mistake: Mistake) -> None:
    telling = telling_cases(ground, mistake, None)
    assert telling
    for case in telling:
        assert_agrees(ground, mistake, "torch", case)
    # JAX runs the text that torch runs and compiles each mistake: every third one in one case is enough.
    if ALL.index((ground, mistake)) % 3 == 0:
        assert_agrees(ground, mistake, "jax", telling[0])


ONE_MISTAKE = {
    "encoder": [
        # All see all: the opposite is that nobody sees anything.
        {"attention missing", "mask inverted"},
    ],
    "prefix decoder": [
        # Two names for one mask.
        {"mask ignored", "tokens see the future"},
    ],
}
"""Mistakes that no case of a ground tells apart, and why."""


@pytest.mark.parametrize("ground", GROUNDS)
def test_no_two_mistakes_are_one(ground: str) -> None:
    modules = {f"parity.mistakes.{name}" for g in GROUNDS.values() for name in g.modules}
    inner = [m for m in MISTAKES if m.variant.__module__ in modules]
    outputs_of = outputs(ground, None)
    candidates = [
        m
        for m in inner
        if any(map(differ, outputs(ground, m), outputs_of))
        or ("detached" in m.name and telling_cases(ground, m, None))
    ]
    ties = [{a.name, b.name} for a, b in combinations(candidates, 2) if not telling_cases(ground, a, b)]
    assert ties == ONE_MISTAKE.get(ground, [])
