"""A mistake is named if outputs and gradients agree with it; what is not sure is not named."""

import time
from collections.abc import Callable
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from lm.budgets import Dtype
from parity.case import Given
from parity.check.answer import Answer, Ask
from parity.check.diagnose import diagnose
from parity.check.diagnosis import Diagnosis
from parity.check.subjects import Subject
from parity.mistakes import Mistake
from tests.check.subjects import (
    BLOCK,
    CATALOGUE,
    MISTAKES,
    MODEL,
    RMSNORM,
    ROPE,
    SILU,
    SUBJECTS,
    of_jax,
    of_mistakes,
    of_oracle,
    of_torch,
)


def torch_rmsnorm(given: Given, a: dict[str, torch.Tensor], wrong: str = "") -> torch.Tensor:
    x, weight, eps = a["x"], a["weight"], given.statics["eps"]
    root = ((x * x).mean(-1, keepdim=True) + eps).sqrt()
    if "epsilon outside" in wrong:
        root = (x * x).mean(-1, keepdim=True).sqrt() + eps
    if "root detached" in wrong:
        root = root.detach()
    return x / root * (1 + weight if "1 + weight" in wrong else weight)


from_one = MISTAKES["positions from 1"].variant


def run(subject: Subject, ask: Ask, *known: str, dtype: Dtype = "float32") -> Diagnosis:
    return diagnose(subject, ask, dtype, [MISTAKES[name] for name in known], CATALOGUE)


def names(diagnosis: Diagnosis) -> set[str]:
    return {mistake.name for mistake in diagnosis.mistakes}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("wrong", ["epsilon outside", "1 + weight", "root detached"])
def test_a_mistake_is_named_from_outputs_and_gradients(wrong: str, dtype: Dtype) -> None:
    found = run(RMSNORM, of_torch(lambda g, a: torch_rmsnorm(g, a, wrong)), dtype=dtype)
    assert names(found) == {wrong}
    assert found.agreement < (2e-6 if dtype == "float32" else 1e-12)
    assert not found.unseen
    assert not found.measured


def test_a_mistake_in_jax_is_named() -> None:
    def rope(given: Given, a: dict[str, jnp.ndarray]) -> jnp.ndarray:
        x, K = a["x"], a["x"].shape[-1]
        positions = given.constants["positions"].astype(np.float64)
        angle = positions[..., None] * given.statics["theta"] ** (-2 * np.arange(K // 2) / K)
        angle = np.broadcast_to(angle, (*x.shape[:-1], K // 2))
        sin, cos = jnp.asarray(np.sin(angle), x.dtype), jnp.asarray(np.cos(angle), x.dtype)
        return jnp.concatenate(
            [
                x[..., : K // 2] * cos - x[..., K // 2 :] * sin,
                x[..., K // 2 :] * cos + x[..., : K // 2] * sin,
            ],
            -1,
        )

    assert names(run(ROPE, of_jax(rope))) == {"halves"}


def test_a_right_function_gets_no_name() -> None:
    found = run(RMSNORM, of_torch(torch_rmsnorm))
    assert not found.mistakes
    assert not found.measured
    assert not found.smallest


def test_rounding_gets_no_name() -> None:
    """bfloat16 in float32's place is off by rounding alone."""

    def low(given: Given, a: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch_rmsnorm(given, {name: t.bfloat16() for name, t in a.items()}).to(a["x"].dtype)

    found = run(RMSNORM, of_torch(low))
    assert not found.mistakes
    assert found.measured[0].startswith("it rounds: for tiny changes of the inputs")
    assert "`rmsnorm` in bfloat16" in found.measured[1]


def test_an_output_that_agrees_with_gradients_that_do_not_gets_no_name() -> None:
    def f(given: Given, a: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch_rmsnorm(
            given, {**a, "x": a["x"].detach() + (a["x"] - a["x"].detach()) / 2}, "epsilon outside"
        )

    found = run(RMSNORM, of_torch(f))
    assert not found.mistakes
    assert not found.one_of


def test_two_mistakes_in_one_function_are_off_and_get_no_wrong_name() -> None:
    found = run(RMSNORM, of_torch(lambda g, a: torch_rmsnorm(g, a, "epsilon outside, 1 + weight")))
    assert not found.mistakes
    assert found.smallest


def test_what_no_mistake_explains_is_measured() -> None:
    def scaled(given: Given, a: dict[str, torch.Tensor]) -> torch.Tensor:
        return a["x"] * torch.sigmoid(a["x"]) * 2

    found = run(SILU, of_torch(scaled))
    assert not found.mistakes
    assert found.lines()[:2] == [
        "no known mistake fits:",
        "- the output is 2 times the right one",
    ]


def test_numbers_are_measured_beside_cases_without_numbers() -> None:
    def f(given: Given, a: dict[str, torch.Tensor]) -> torch.Tensor:
        y = a["x"] * torch.sigmoid(a["x"]) * 2
        return y if y.ndim == 1 else y * torch.nan

    assert run(SILU, of_torch(f)).measured == (
        "the output is 2 times the right one",
        "the output is NaN everywhere",
    )


@pytest.mark.parametrize("subject", ["transformer_block", "transformer_lm"])
@pytest.mark.parametrize(
    "wrong",
    [
        ("halves",),
        ("gate swapped",),
        ("halves", "gate swapped"),
        ("epsilon outside", "unscaled"),
        ("1 + weight", "backwards", "sigmoid"),
    ],
)
def test_a_composite_is_explained_by_the_mistakes_of_its_parts(subject: str, wrong: tuple[str, ...]) -> None:
    start = time.monotonic()
    found = run(SUBJECTS[subject], of_oracle(subject, *wrong))
    assert names(found) == set(wrong)
    assert time.monotonic() - start < 10


def test_known_mistakes_come_first_and_point_above() -> None:
    found = run(BLOCK, of_oracle("transformer_block", "halves", "gate swapped"), "halves")
    assert names(found) == {"halves", "gate swapped"}
    assert found.known == ("halves",)
    assert "halves: see above." in found.lines()
    assert any(line.startswith("With these changes your function agrees to") for line in found.lines())


def test_gradients_that_were_not_seen_are_said_so() -> None:
    found = run(RMSNORM, of_oracle("rmsnorm", "1 + weight"))
    assert names(found) == {"1 + weight"}
    assert found.unseen == ("x", "weight")
    assert found.lines()[1].endswith("The gradients of x and weight were not seen.")


def test_mistakes_that_agree_on_the_cases_are_told_apart_by_one_that_is_drawn() -> None:
    """Positions from 0 do not show whether they are ignored. A case with others does."""
    counted = replace(MISTAKES["positions from 1"], name="positions from 1, whatever is asked for")
    counted = replace(counted, variant=lambda x, p, theta: from_one(x, np.arange(x.shape[-2]), theta))
    for mistake, other in ((MISTAKES["positions from 1"], counted), (counted, MISTAKES["positions from 1"])):
        ask = of_mistakes("rope", [mistake])
        assert names(diagnose(ROPE, ask, catalogue=(other, mistake))) == {mistake.name}


def test_float64_tells_apart_what_float32_rounds_away() -> None:
    """An epsilon of 1e-5 in one place or another changes a result of norm 1 by less than float32's budget."""
    tiny = [
        Mistake(
            f"{name} added",
            "silu",
            lambda x, e=e: MISTAKES["sigmoid"].variant(x) * x * (1 + e),
            "A. B.",
            "f",
            "s",
        )
        for name, e in (("a", 3e-6), ("b", 3.05e-6))
    ]

    def silu(given: Given, a: dict[str, torch.Tensor]) -> torch.Tensor:
        return a["x"] * torch.sigmoid(a["x"]) * (1 + 3e-6)

    found = diagnose(SILU, of_torch(silu), catalogue=tiny)
    assert names(found) == {"a added"}
    assert found.lines()[1].startswith("With that change your function agrees to")
    assert found.lines()[1].endswith("in float64.")


def test_what_no_case_tells_apart_is_listed() -> None:
    twin = replace(MISTAKES["halves"], name="a twin of halves")
    found = diagnose(ROPE, of_oracle("rope", "halves"), catalogue=(*CATALOGUE, twin))
    assert [[m.name for m in mistakes] for mistakes in found.one_of] == [["halves"], ["a twin of halves"]]
    assert not found.mistakes
    assert found.lines()[0] == "one of these mistakes, which no case told apart:"


def test_too_many_explanations_are_none() -> None:
    twins = [replace(MISTAKES["halves"], name=f"twin {i}") for i in range(3)]
    found = diagnose(ROPE, of_oracle("rope", "halves"), catalogue=(*CATALOGUE, *twins))
    assert not found.mistakes
    assert not found.one_of


def test_an_unknown_mistake_of_a_composite_is_narrowed_down_to_a_part() -> None:
    def ask(given: Given, cotangent: np.ndarray | None = None, dtype: Dtype = "float32") -> Answer:
        arrays = {name: a * 1.1 if name == "ffn.w1.weight" else a for name, a in given.arrays.items()}
        return Answer(BLOCK.layer.oracle(given._replace(arrays=arrays)), {}, dtype)

    found = run(BLOCK, ask)
    assert not found.mistakes
    assert found.measured[-1] == (
        "it is right without attention and feed-forward (output_proj and w2 of 0); it is off without attention "
        "(output_proj of 0): look at feed-forward, or the norm before it"
    )


def test_a_variant_that_fails_on_a_case_is_no_candidate() -> None:
    def fails(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
        raise ZeroDivisionError

    broken = replace(MISTAKES["halves"], name="broken", variant=fails)
    found = diagnose(MODEL, of_oracle("transformer_lm", "halves"), catalogue=(broken, *CATALOGUE))
    assert names(found) == {"halves"}


def test_json_has_what_the_lines_say() -> None:
    found = run(ROPE, of_oracle("rope", "backwards"))
    data = found.as_json()
    assert [m["name"] for m in data["mistakes"]] == ["backwards"]
    assert data["smallest_failing_case"] == found.smallest
    assert data["agreement"] == found.agreement < 1e-6


GARBAGE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "a number": lambda y: np.array(1.0),
    "nothing": lambda y: np.zeros(0),
    "another shape of some": lambda y: y if y.shape[0] == 2 else y[..., None],
    "transposed": lambda y: y.T,
    "NaN": lambda y: y * np.nan,
    "infinite": lambda y: np.full_like(y, np.inf),
    "zero": lambda y: 0 * y,
    "one infinite element": lambda y: np.where(np.arange(y.size).reshape(y.shape) == 1, np.inf, y),
    "huge": lambda y: y * 1e300,
    "tiny": lambda y: y * 1e-300,
    "noise": lambda y: np.random.default_rng(y.size).standard_normal(y.shape),
}


@pytest.mark.parametrize("garbage", list(GARBAGE))
@pytest.mark.parametrize("name", ["rmsnorm", "rope", "transformer_lm"])
def test_garbage_gets_no_name_and_ends_no_check(name: str, garbage: str) -> None:
    def ask(given: Given, cotangent: np.ndarray | None = None, dtype: Dtype = "float32") -> Answer:
        output = GARBAGE[garbage](np.asarray(SUBJECTS[name].layer.oracle(given)))
        gradients = {n: GARBAGE[garbage](a) for n, a in given.arrays.items()} if cotangent is not None else {}
        return Answer(output, gradients, dtype)

    found = run(SUBJECTS[name], ask)
    assert not found.mistakes
    assert not found.one_of
    assert found.lines()


def test_a_function_that_always_fails_gets_no_diagnosis() -> None:
    def ask(given: Given, cotangent: np.ndarray | None = None, dtype: Dtype = "float32") -> Answer:
        return Answer()

    assert run(RMSNORM, ask).lines() == ["no known mistake fits, and nothing simple was measured."]
