"""The learning rate at each step."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.config import OptimizerConfig
from lm.schedule import learning_rate, schedule

steps = st.integers(0, 10_000)
rates = st.floats(0, 10)


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.0),
        (1, 0.25),
        (3, 0.75),
        (4, 1.0),  # the end of the warm-up, where both branches agree
        (6, 0.1 + 0.45 * (1 + math.sqrt(0.5))),
        (8, 0.55),
        (11, 0.1 + 0.45 * (1 + math.cos(7 / 8 * math.pi))),
        (12, 0.1),
        (13, 0.1),
        (10**9, 0.1),
    ],
)
def test_by_hand(step: int, rate: float) -> None:
    assert schedule("cosine", step, 1.0, 0.1, 4, 12) == pytest.approx(rate, rel=1e-15)


def test_without_warm_up_it_starts_at_the_maximum() -> None:
    assert schedule("cosine", 0, 1.0, 0.1, 0, 10) == 1.0


def test_without_a_cosine_the_minimum_follows_the_warm_up() -> None:
    assert [schedule("cosine", t, 1.0, 0.1, 2, 2) for t in range(4)] == [0.0, 0.5, 0.1, 0.1]
    assert schedule("cosine", 0, 1.0, 0.1, 0, 0) == 0.1


@given(steps, rates, rates, steps, steps)
def test_it_rises_then_falls_between_its_bounds(
    step: int, low: float, height: float, warmup: int, length: int
) -> None:
    high, end = low + height, warmup + length
    rate, after = (schedule("cosine", t, high, low, warmup, end) for t in (step, step + 1))
    assert 0.0 <= rate <= high * (1 + 1e-15)
    if step + 1 < warmup:
        assert after >= rate
    elif step >= warmup:
        assert low <= after <= rate * (1 + 1e-15)
    if step >= end:
        assert rate == low


def test_linear_and_constant_by_hand() -> None:
    linear = [schedule("linear", t, 1.0, 0.2, 2, 10) for t in (0, 1, 2, 6, 10, 11)]
    assert linear == pytest.approx([0.0, 0.5, 1.0, 0.6, 0.2, 0.2], rel=1e-15)
    assert [schedule("constant", t, 3.0, 0.1, 2, 9) for t in (0, 1, 2, 10**9)] == [0.0, 1.5, 3.0, 3.0]
    assert schedule("linear", 0, 1.0, 0.2, 0, 0) == 0.2
    assert schedule("constant", 0, 1.0, 0.1, 0, 9) == 1.0


def test_warmup_stable_decay_by_hand() -> None:
    rates = [schedule("warmup-stable-decay", t, 1.0, 0.2, 2, 10, 0.4) for t in (0, 1, 2, 5, 6, 7, 8, 10, 11)]
    assert rates == pytest.approx([0.0, 0.5, 1.0, 1.0, 1.0, 0.8, 0.6, 0.2, 0.2], rel=1e-15)
    # A fall longer than the steps after the warm-up is the linear schedule.
    for t in range(12):
        assert schedule("warmup-stable-decay", t, 1.0, 0.2, 3, 10, 1.0) == schedule(
            "linear", t, 1.0, 0.2, 3, 10
        )
    assert schedule("warmup-stable-decay", 0, 1.0, 0.2, 0, 0, 0.5) == 0.2


@pytest.mark.parametrize(
    ("schedule", "last"),
    [("cosine", 0.1), ("linear", 0.1), ("constant", 1.0), ("warmup-stable-decay", 0.1)],
)
def test_every_schedule_moves_at_once_and_arrives_at_its_end(schedule: str, last: float) -> None:
    config = OptimizerConfig(1.0, 0.1, 4, schedule=schedule)  # type: ignore[arg-type]
    rates = [learning_rate(step, 12, config) for step in range(12)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[-1] == pytest.approx(last)
