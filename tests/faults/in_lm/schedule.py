"""Faults in lm/schedule.py: the learning rate."""

import math
from typing import Any

from tests.faults.fault import RUN, SCHEDULE, fault


@fault("warm-up is one step ahead", "lm.schedule.schedule", SCHEDULE)
def _(original: Any) -> Any:
    def broken(shape: str, step: int, high: float, low: float, warmup_steps: int, *rest: Any) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps * high
        return float(original(shape, step, high, low, warmup_steps, *rest))

    return broken


@fault("the cosine counts the warm-up", "lm.schedule.schedule", SCHEDULE)
def _(original: Any) -> Any:
    def broken(
        shape: str, step: int, high: float, low: float, warmup_steps: int, last_step: int, *share: float
    ) -> float:
        if shape == "constant" or not warmup_steps <= step < last_step:
            return float(original(shape, step, high, low, warmup_steps, last_step, *share))
        progress = step / (last_step - warmup_steps)
        height = 0.5 * (1 + math.cos(math.pi * progress)) if shape == "cosine" else 1 - progress
        return low + height * (high - low)

    return broken


@fault("the decay begins a step early", "lm.schedule.schedule", "tests/lm/test_schedule.py")
def _(original: Any) -> Any:
    def broken(shape: str, step: int, high: float, low: float, warmup_steps: int, *rest: Any) -> float:
        early = shape == "warmup-stable-decay" and step >= warmup_steps
        return float(original(shape, step + early, high, low, warmup_steps, *rest))

    return broken


@fault("the loop's learning rate is one step late", "lm.schedule.learning_rate", RUN)
def _(original: Any) -> Any:
    return lambda step, steps, config: original(step - 1, steps, config)
