"""The learning rate over steps."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.schedule import cosine_schedule

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
    assert cosine_schedule(step, 1.0, 0.1, 4, 12) == pytest.approx(rate, rel=1e-15)


def test_without_warm_up_it_starts_at_the_maximum() -> None:
    assert cosine_schedule(0, 1.0, 0.1, 0, 10) == 1.0


def test_without_a_cosine_the_minimum_follows_the_warm_up() -> None:
    assert [cosine_schedule(t, 1.0, 0.1, 2, 2) for t in range(4)] == [0.0, 0.5, 0.1, 0.1]
    assert cosine_schedule(0, 1.0, 0.1, 0, 0) == 0.1


@given(steps, rates, rates, steps, steps)
def test_it_rises_then_falls_between_its_bounds(
    step: int, low: float, height: float, warmup: int, length: int
) -> None:
    high, end = low + height, warmup + length
    rate, after = (cosine_schedule(t, high, low, warmup, end) for t in (step, step + 1))
    assert 0.0 <= rate <= high * (1 + 1e-15)
    if step + 1 < warmup:
        assert after >= rate
    elif step >= warmup:
        assert low <= after <= rate * (1 + 1e-15)
    if step >= end:
        assert rate == low
