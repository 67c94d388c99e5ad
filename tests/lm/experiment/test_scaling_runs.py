"""`lm experiment scaling`: the grid, the model beyond the grid beside its prediction, and the errors over stories."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from lm.backend import BackendName
from lm.config import TrainConfig, load_config
from lm.experiment import SCALING_CONFIG
from lm.experiment.outcomes import Outcome
from lm.experiment.runs import Plan, Runs, apply_changes
from lm.experiment.scaling import grid, run
from lm.experiment.scaling.fit import fit_points
from lm.experiment.scaling.plot import plot
from lm.experiment.scaling.points import Point
from lm.experiment.scaling.stories import story_errors
from lm.flops import train_flops_per_token
from tests.lm.conftest import lm, refused

FLOOR, A, B, a, b = 0.4, 60.0, 900.0, 0.4, 0.5


@pytest.fixture(scope="module")
def base() -> TrainConfig:
    return load_config(SCALING_CONFIG)


def test_a_cell_costs_its_budget_and_every_third_one_is_repeated(base: TrainConfig) -> None:
    cells = grid.cells(2.0)
    first = [cell for cell in cells if cell.seed == 0]
    assert len(first) == len(grid.BUDGETS) * grid.SIZES_OF_A_BUDGET
    assert [cell for cell in cells if cell.seed] == [
        grid.Cell(cell.budget, cell.size, 1) for cell in first[:: grid.REPEAT_EVERY]
    ]
    assert {cell.budget for cell in cells} == {2 * budget for budget in grid.BUDGETS}
    assert {cell.size for cell in cells} == set(grid.SIZES)
    for cell in cells:
        config = apply_changes(base, cell.changes(base))
        assert config.model == grid.sized(base, cell.size)
        flops = train_flops_per_token(config.model) * config.steps * grid.tokens_per_step(config)
        assert flops == pytest.approx(cell.budget, rel=0.005)
        assert config.optimizer.warmup_steps == pytest.approx(config.steps / 20, abs=0.5)


def test_weights_that_multiply_give_the_flops_without_attention(base: TrainConfig) -> None:
    model = grid.sized(base, (64, 3))
    attention = 12 * model.num_layers * model.d_model * model.context_length
    assert train_flops_per_token(model) == 6 * grid.multiplied(model) + attention
    assert grid.best_size(base, grid.multiplied(model) * 1.01) == (64, 3)
    tied = apply_changes(base, {"tie_embeddings": True})
    assert grid.multiplied(grid.sized(tied, (64, 3))) == grid.multiplied(model)


def outcome_by_law(runs: Runs, **changes: Any) -> Outcome:
    """Return the outcome of a run whose loss follows a law."""
    config = apply_changes(runs.plan.config, changes)
    tokens = config.steps * grid.tokens_per_step(config)
    loss = FLOOR + A / grid.multiplied(config.model) ** a + B / tokens**b
    rate = config.optimizer.learning_rate
    return Outcome(
        "one", rate, config.batch_size, config.seed, 1, config.steps, tokens, 1.0, 8.0, loss, 9.0, None
    )


def test_a_law_predicts_the_model_beyond_the_grid(
    base: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {"stories": 9, "floor": FLOOR, "floor_error": 0.003, "excess": 0.5, "excess_error": 0.0015}
    monkeypatch.setattr(Runs, "train", outcome_by_law)
    monkeypatch.setattr(Runs, "floor", FLOOR)
    monkeypatch.setattr(Runs, "inputs", property(lambda runs: runs))
    monkeypatch.setattr(Runs, "val", tmp_path, raising=False)
    monkeypatch.setattr(run, "story_errors", lambda *_: errors)
    monkeypatch.setattr(run, "fit_points", partial(fit_points, resamples=3))
    facts = json.loads(json.dumps(run.run(Runs(Plan(base, "torch", budget=2.0), tmp_path))))
    point, law = facts["beyond"]["point"], facts["fit"]["methods"]["law, E given"]
    assert point["flops"] == pytest.approx(4 * 2 * grid.BUDGETS[-1], rel=0.01)
    assert point["parameters"] == pytest.approx(law[f"N at {8 * grid.BUDGETS[-1]:g}"]["value"], rel=0.4)
    assert facts["predictions"]["law, E given"] == pytest.approx(point["loss"], rel=1e-4)
    assert len(facts["outcomes"]) == len(facts["fit"]["points"]) == len(grid.cells(1.0))
    page = "\n".join(run.tables(facts))
    assert f"{point['loss']:.4f}" in page
    assert "0.4000 ± 0.0030" in page
    assert "0.5000 ± 0.0015" in page
    run.plot(facts, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_the_laws_curves_pass_through_runs_that_follow_the_law(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = []
    for flops in (1e12, 1e13, 1e14):
        for n in np.geomspace(1 / 3, 3, 5) * flops**0.5 / 40:
            d = flops / (6 * n)
            points.append(Point(flops, n, d, FLOOR + A / n**a + B / d**b))
    figures: list[Figure] = []

    def save(figure: Figure, path: Path, **_: object) -> None:
        figures.append(figure)
        path.touch()

    monkeypatch.setattr(Figure, "savefig", save)
    plot(fit_points(points, FLOOR, resamples=3), tmp_path / "law.png")
    for panel, style in zip(figures[0].axes[:2], ("-", ":"), strict=True):
        curves = {
            line.get_color(): np.array(line.get_xydata()).T
            for line in panel.lines
            if len(np.array(line.get_xydata())) > 2 and line.get_linestyle() == style
        }
        runs = [line for line in panel.lines if line.get_marker() == "o" and line.get_color() in curves]
        assert len(runs) > 2
        for run_of_law in runs:
            x, loss = np.array(run_of_law.get_xydata()).T
            curve_x, curve_loss = curves[run_of_law.get_color()]
            assert np.interp(np.log(x), np.log(curve_x), curve_loss) == pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize(("backend", "context_length"), [("torch", 128), ("jax", 1024)])
def test_errors_over_stories_are_those_of_the_stories_alone(
    tmp_path: Path, backend: BackendName, context_length: int
) -> None:
    # Windows of 128 tokens split a story, and windows of 1,024 hold several.
    text, tokens, tokenizer, out = (tmp_path / name for name in ("a.txt", "a.npy", "tokenizer", "run"))
    assert lm("stories", "--out", text, "--bytes", 8_000, "--seed", 3) == 0
    assert lm("tokenizer", "train", "--input", text, "--vocab-size", 600, "--out", tokenizer) == 0
    assert lm("tokenizer", "encode", "--tokenizer", tokenizer, "--input", text, "--out", tokens) == 0
    shape = (
        "--model.d-model",
        16,
        "--model.num-layers",
        1,
        "--model.num-heads",
        1,
        "--model.vocab-size",
        600,
    )
    flags = (*shape, "--model.context-length", context_length, "--steps", 2, "--threads", 1)
    data = ("--train", tokens, "--val", tokens, "--out", out)
    assert lm("train", "--backend", backend, "--config", SCALING_CONFIG, *data, *flags) == 0
    errors = story_errors(out, text, tokens)
    facts = json.loads((tmp_path / "a.npy.json").read_text())
    count = json.loads((tmp_path / "a.txt.json").read_text())["documents"]
    assert errors["stories"] == count
    assert errors["floor"] == pytest.approx(facts["nats"] / (facts["tokens"] - 1))
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert errors["floor"] + errors["excess"] == pytest.approx(last["val_loss"], rel=1e-6)
    # A story has 115 nats, give or take 15.
    assert errors["floor_error"] / errors["floor"] == pytest.approx(14.6 / 115.2 / np.sqrt(count), rel=0.7)
    assert 0 < errors["excess_error"] < errors["excess"] / 10


def test_budgets_that_make_no_sense_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "experiment", "scaling", "--out", tmp_path / "out", "--budget"
    assert "budget: 0.0 is not a finite number above 0" in refused(capsys, *command, 0)
    assert "only 1 steps of 1,536 tokens; give a larger --budget" in refused(capsys, *command, 1e-9)
