"""The cosine schedule, one function for both backends, agrees with the oracle's; its limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.schedule import schedule
from parity import oracle
from tests.parity.support import assert_close, examples


@examples(100)
@given(
    step=st.integers(0, 300),
    highest=st.floats(1e-6, 1.0),
    fraction=st.floats(0, 1),
    warmup=st.integers(0, 100),
    decay=st.integers(0, 150),
)
def test_parity(step: int, highest: float, fraction: float, warmup: int, decay: int) -> None:
    arguments = (step, highest, highest * fraction, warmup, warmup + decay)
    assert_close(schedule("cosine", *arguments), oracle.cosine_schedule(*arguments), "float64")


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.0),  # The first step of a warm-up leaves the weights unchanged.
        (1, 0.25),
        (3, 0.75),
        (4, 1.0),  # The maximum, once.
        (6, 0.55),  # Half-way down.
        (8, 0.1),  # The last step of the cosine,
        (9, 0.1),  # and all beyond.
        (10**9, 0.1),
    ],
)
def test_boundaries(step: int, rate: float) -> None:
    assert_close(schedule("cosine", step, 1.0, 0.1, 4, 8), rate, "float64")


def test_without_warmup_it_starts_at_the_top() -> None:
    assert schedule("cosine", 0, 1.0, 0.1, 0, 8) == 1.0


def test_a_cosine_of_no_length_is_the_minimum() -> None:
    assert schedule("cosine", 4, 1.0, 0.1, 4, 4) == 0.1
