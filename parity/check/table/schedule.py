"""The learning rate's schedule."""

import numpy as np

from parity import oracle
from parity.case import Case, Given, Layer
from parity.check.subjects import Arguments, Call
from parity.check.table.entry import subject


def _schedule(g: Given) -> np.ndarray:
    s = g.statics
    rest = s["highest"], s["lowest"], s["warmup_steps"], s["cosine_steps"]
    return np.array([oracle.cosine_schedule(step, *rest) for step in s["steps"]])


def _draw_schedule(rng: np.random.Generator, case: Case) -> Given:
    warmup, end = case.shape
    highest = float(rng.uniform(0.1, 1))
    statics = {"highest": highest, "lowest": highest * 0.1, "warmup_steps": warmup, "cosine_steps": end}
    # At the last step of the cosine, wrong formulas differ in whether they are still used.
    return Given({}, statics={"steps": [*range(end), *range(end + 1, end + 4)]} | statics)


def _schedule_arguments(g: Given) -> Arguments:
    s = g.statics
    return {
        "it": s["steps"],
        "max_learning_rate": s["highest"],
        "min_learning_rate": s["lowest"],
        "warmup_iters": s["warmup_steps"],
        "cosine_cycle_iters": s["cosine_steps"],
    }


SCHEDULES = (
    subject(
        "lr_schedule",
        Layer(((7, 21), (3, 10)), _draw_schedule, _schedule, differentiable=False),
        Call("run_get_lr_cosine_schedule", _schedule_arguments, through="schedule"),
        Call("cosine_schedule", _schedule_arguments, through="schedule"),
    ),
)
