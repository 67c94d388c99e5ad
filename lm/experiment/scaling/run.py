"""`lm experiment scaling`: train the grid, fit it, predict the best model beyond it, and train that model."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from lm.config import TrainConfig
from lm.experiment.outcomes import Outcome, as_facts, outcomes_of, runs_table
from lm.experiment.runs import Runs
from lm.experiment.scaling import grid
from lm.experiment.scaling.fit import fit_points
from lm.experiment.scaling.grid import Cell
from lm.experiment.scaling.law import read_law
from lm.experiment.scaling.plot import plot as plot_fit
from lm.experiment.scaling.points import Point
from lm.experiment.scaling.stories import story_errors
from lm.experiment.scaling.tables import tables as fit_tables
from lm.flops import train_flops_per_token
from lm.tables import markdown_table
from tokenizer.errors import InputError

_BYTES_PER_TOKEN = 4
"""More than a token of the stories has, so that no run reads a story twice."""
_LAWS = ("law, E given", "law, E free")
_FEWEST_STEPS = 4

Facts = dict[str, Any]


def run(runs: Runs) -> Facts:
    """Sweep the rates, train the grid, fit it, and train the model that the fit predicts to be the best beyond it."""
    plan, base = runs.plan, runs.plan.config
    cells = grid.cells(plan.budget)
    _refuse_few_steps(base, cells)
    most = max(cell.changes(base)["steps"] for cell in cells) * grid.tokens_per_step(base)
    # The model beyond the grid reads about twice as much as the best one of the largest budget.
    runs = Runs(replace(plan, train_bytes=2 * most * _BYTES_PER_TOKEN), runs.out)
    swept = [
        [runs.train(**cell.changes(base, factor)) for factor in grid.RATE_FACTORS]
        for cell in grid.sweep_cells(plan.budget)
    ]
    outcomes = [runs.train(**cell.changes(base)) for cell in cells]
    beyond = grid.BEYOND * grid.BUDGETS[-1] * plan.budget
    trained = [(cell, outcome) for cell, outcome in zip(cells, outcomes, strict=True) if not outcome.diverged]
    fit = fit_points([_point(base, cell, outcome) for cell, outcome in trained], runs.floor, [beyond])
    return {
        "swept": [as_facts(one) for one in swept],
        "outcomes": as_facts(outcomes),
        "fit": fit,
        **_beyond(runs, fit, beyond),
    }


def _refuse_few_steps(base: TrainConfig, cells: list[Cell]) -> None:
    steps, cell = min(((cell.changes(base)["steps"], cell) for cell in cells), key=lambda pair: pair[0])
    if steps < _FEWEST_STEPS:
        raise InputError(
            f"budget: {cell.budget:g} FLOPs leave d_model {cell.size[0]} only {steps} steps of "
            f"{grid.tokens_per_step(base):,} tokens; give a larger --budget, or a smaller batch_size"
        )


def _point(base: TrainConfig, cell: Cell, outcome: Outcome) -> Point:
    model = grid.sized(base, cell.size)
    return Point(
        flops=train_flops_per_token(model) * outcome.tokens,
        parameters=grid.multiplied(model),
        tokens=outcome.tokens,
        loss=outcome.loss,
        seed=outcome.seed,
    )


def _beyond(runs: Runs, fit: Facts, budget: float) -> Facts:
    """Train the best model of a budget beyond the grid. Return it, and its loss by each law."""
    base, floor = runs.plan.config, fit["floor"]
    laws = {name: fit["methods"][name] for name in _LAWS if name in fit["methods"]}
    predicted = next(iter(laws.values()))
    cell = Cell(budget, grid.best_size(base, predicted[f"N at {budget:g}"]["value"]), 0)
    outcome = runs.train(**cell.changes(base))
    point = _point(base, cell, outcome)
    facts: Facts = {
        "beyond": {"point": asdict(point), "size": cell.size, "outcome": as_facts([outcome])},
        "predictions": {name: _law_loss(law, point) for name, law in laws.items()},
    }
    if floor is not None:
        inputs = runs.inputs
        facts["stories"] = story_errors(runs.out / "runs" / outcome.name, runs.out / "val.txt", inputs.val)
    return facts


def _law_loss(law: Facts, point: Point) -> float:
    """Return the loss of a size and a number of tokens by a law."""
    return float(np.exp(read_law(law).log_loss(np.log([[point.parameters, point.tokens]])))[0])


def tables(facts: Facts) -> list[str]:
    """Return the prediction beside the trained model, the sampling errors, the fit, the sweep and all runs."""
    swept = [outcomes_of(one) for one in facts["swept"]]
    groups = {f"{factor:g} times": [one[i] for one in swept] for i, factor in enumerate(grid.RATE_FACTORS)}
    blocks = [_predictions(facts)]
    if "stories" in facts:
        blocks.append(_stories(facts["stories"]))
    return [
        *blocks,
        *fit_tables(facts["fit"]),
        "The rates of the rule, and half and double of them, for a small and a large model:",
        runs_table(groups),
        "All runs, and at the end the one beyond the grid:",
        runs_table(
            {o.name: [o] for o in (*outcomes_of(facts["outcomes"]), *outcomes_of(facts["beyond"]["outcome"]))}
        ),
    ]


def _predictions(facts: Facts) -> str:
    """Return a row for each law: the loss beyond the grid as predicted and as measured."""
    point, floor = facts["beyond"]["point"], facts["fit"]["floor"]
    d_model, num_layers = facts["beyond"]["size"]
    rows = []
    for name, predicted in facts["predictions"].items():
        error = predicted - point["loss"]
        share = "-" if floor is None else f"{error / (point['loss'] - floor):+.2%}"
        rows.append(
            [
                name,
                f"{point['flops']:.3g}",
                f"d_model {d_model}, {num_layers} layers",
                f"{point['parameters']:,}",
                f"{point['tokens']:,}",
                f"{predicted:.4f}",
                f"{point['loss']:.4f}",
                f"{error:+.4f}",
                share,
            ]
        )
    head = ("fit", "FLOPs", "model", "N", "D", "predicted loss", "measured loss", "error")
    return markdown_table((*head, "error as a share of the excess"), rows)


def _stories(errors: Facts) -> str:
    """Return the floor and the excess of the model beyond the grid, with their standard errors over stories."""
    return markdown_table(
        ("stories", "floor", "excess of the largest model over the floor"),
        [
            [
                f"{errors['stories']:,}",
                f"{errors['floor']:.4f} ± {errors['floor_error']:.4f}",
                f"{errors['excess']:.4f} ± {errors['excess_error']:.4f}",
            ]
        ],
    )


def plot(facts: Facts, path: Path) -> None:
    """Draw the fits (`lm.experiment.scaling.plot`)."""
    plot_fit(facts["fit"], path, Point(**facts["beyond"]["point"]))
