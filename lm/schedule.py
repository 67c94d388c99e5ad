"""Learning-rate schedules, in Python floats so that both backends get the same number."""

import math

from lm.config import OptimizerConfig


def cosine_schedule(
    step: int, max_learning_rate: float, min_learning_rate: float, warmup_steps: int, cosine_steps: int
) -> float:
    """Linear warm-up, then a cosine to the minimum (Loshchilov and Hutter, 2017, eq. 5), which is kept.

    Args:
        step: Counts from 0.
        warmup_steps: The rate is `step / warmup_steps` of the maximum before this step.
        cosine_steps: The minimum is reached at this step, counted from 0 too, and kept.

    >>> [cosine_schedule(t, 1.0, 0.1, 2, 6) for t in (0, 1, 2, 4, 6, 9)]
    [0.0, 0.5, 1.0, 0.55, 0.1, 0.1]
    """
    if step < warmup_steps:
        return step / warmup_steps * max_learning_rate
    if step >= cosine_steps:
        return min_learning_rate
    progress = (step - warmup_steps) / (cosine_steps - warmup_steps)
    return min_learning_rate + 0.5 * (1 + math.cos(math.pi * progress)) * (
        max_learning_rate - min_learning_rate
    )


def linear_schedule(
    step: int, max_learning_rate: float, min_learning_rate: float, warmup_steps: int, linear_steps: int
) -> float:
    """Linear warm-up, then a line down to the minimum, which is reached at step `linear_steps` and kept.

    >>> [linear_schedule(t, 1.0, 0.5, 2, 6) for t in (0, 1, 2, 4, 6, 9)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.5]
    """
    if step < warmup_steps:
        return step / warmup_steps * max_learning_rate
    if step >= linear_steps:
        return min_learning_rate
    progress = (step - warmup_steps) / (linear_steps - warmup_steps)
    return max_learning_rate - progress * (max_learning_rate - min_learning_rate)


def constant_schedule(step: int, learning_rate: float, warmup_steps: int) -> float:
    """Linear warm-up, then the same rate for ever.

    >>> [constant_schedule(t, 1.0, 2) for t in (0, 1, 2, 9)]
    [0.0, 0.5, 1.0, 1.0]
    """
    return step / warmup_steps * learning_rate if step < warmup_steps else learning_rate


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """The rate of a step, counted from 0, in a run of so many.

    The schedule is read one step ahead, so that the first step moves and the last arrives at the minimum.
    """
    step, high, low, warmup = step + 1, config.learning_rate, config.min_learning_rate, config.warmup_steps
    match config.schedule:
        case "cosine":
            return cosine_schedule(step, high, low, warmup, steps)
        case "linear":
            return linear_schedule(step, high, low, warmup, steps)
        case "constant":
            return constant_schedule(step, high, warmup)
