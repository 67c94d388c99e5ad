"""Learning-rate schedules in Python floats, so that both backends get the same number."""

import math

from lm.config import OptimizerConfig, Schedule


def schedule(
    shape: Schedule,
    step: int,
    max_learning_rate: float,
    min_learning_rate: float,
    warmup_steps: int,
    last_step: int,
    decay_share: float = 1.0,
) -> float:
    """Return the learning rate of a step: a linear warm-up, then the shape's course.

    After the warm-up the rate falls to the minimum by a cosine (Loshchilov and Hutter, 2017, eq. 5) or by a line, stays
    constant, or stays and falls by a line at the end (warmup-stable-decay: Hu et al., 2024, section 4).

    Args:
        step: Counted from 0.
        warmup_steps: Before this step the rate is `step / warmup_steps` of the maximum.
        last_step: Counted from 0. At this step and after it the rate is the minimum, unless it is constant.
        decay_share: Share of the steps up to the last in which a warmup-stable-decay schedule falls.

    >>> [schedule("cosine", t, 1.0, 0.1, 2, 6) for t in (0, 1, 2, 4, 6, 9)]
    [0.0, 0.5, 1.0, 0.55, 0.1, 0.1]
    >>> [schedule("linear", t, 1.0, 0.5, 2, 6) for t in (0, 1, 2, 4, 6, 9)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.5]
    >>> [schedule("constant", t, 1.0, 0.1, 2, 6) for t in (0, 1, 2, 9)]
    [0.0, 0.5, 1.0, 1.0]
    >>> [schedule("warmup-stable-decay", t, 1.0, 0.5, 2, 10, 0.4) for t in (1, 2, 6, 8, 10, 12)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.5]
    """
    if step < warmup_steps:
        return step / warmup_steps * max_learning_rate
    if shape == "constant":
        return max_learning_rate
    if step >= last_step:
        return min_learning_rate
    start = warmup_steps
    if shape == "warmup-stable-decay":
        start = max(start, last_step - round(decay_share * last_step))
        if step < start:
            return max_learning_rate
    progress = (step - start) / (last_step - start)
    height = 0.5 * (1 + math.cos(math.pi * progress)) if shape == "cosine" else 1 - progress
    return min_learning_rate + height * (max_learning_rate - min_learning_rate)


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Return the learning rate of a step (counted from 0) in a run of `steps` steps.

    The schedule is read one step ahead, so that the first step has a rate above 0 and the last step the minimum.
    """
    high, low, warmup = config.learning_rate, config.min_learning_rate, config.warmup_steps
    return schedule(config.schedule, step + 1, high, low, warmup, steps, config.decay_share)
