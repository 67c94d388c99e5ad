"""Learning-rate schedules, in Python floats so that both backends get the same number."""

import math


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
