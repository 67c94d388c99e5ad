"""`lm experiment`: a folder keeps its runs, and the same command resumes and uses them again."""

import json
import math
import re
import shutil
import signal
import typing
from pathlib import Path
from typing import Any

import pytest

from lm.cli.experiment import Experiment
from lm.experiment import recipes
from lm.experiment.catalogue import COURSE, EXPERIMENTS
from lm.experiment.runs import Runs
from lm.run import evaluate
from lm.run import train as train_module
from lm.run.facts import read_facts
from lm.run.metrics import read_metrics
from tests.lm.conftest import lm, refused
from tests.lm.experiment.conftest import DIVERGING, TINY, command

Capture = pytest.CaptureFixture[str]


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of every file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_one_folder_holds_configs_metrics_plots_and_a_report(swept: Path) -> None:
    assert (swept / "learning-rate.png").read_bytes().startswith(b"\x89PNG")
    runs = sorted(path.name for path in (swept / "runs").iterdir())
    assert runs == ["rate-0.001", "rate-0.03", "rate-0.03_seed-1", "rate-10000"]
    losses: dict[str, float] = {}
    for name in runs:
        facts = read_facts(swept / "runs" / name)
        assert facts
        assert facts["config"]["optimizer"]["learning_rate"] == float(name.split("_")[0].split("-")[1])
        metrics = read_metrics(swept / "runs" / name)
        losses[name] = next((m["val_loss"] for m in reversed(metrics) if "val_loss" in m), math.nan)
    report = (swept / "report.md").read_text()
    assert losses["rate-0.03"] < losses["rate-0.001"]
    mean = (losses["rate-0.03"] + losses["rate-0.03_seed-1"]) / 2
    assert re.search(rf"\| best rate \| +0.03 \| +2 \| +0 \| +{mean:.4f} \|", report)
    for name in ("rate-0.001", "rate-0.03", "rate-0.03_seed-1"):
        assert f"{losses[name]:.4f}" in report
    assert re.search(r"\| rate-10000 +\| +10000 .*diverged: not finite at step \d", report)
    assert "![The learning rate](learning-rate.png)" in report
    assert str(swept) not in report


def test_the_same_command_trains_nothing_and_another_command_is_refused(
    swept: Path, corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = shutil.copytree(swept, tmp_path / "out", copy_function=shutil.copy2)
    before = contents(out)
    assert lm(*command("learning-rate", corpus, out)) == 0
    after = contents(out)
    assert {name: data for name, (data, _) in after.items()} == {n: data for n, (data, _) in before.items()}
    redrawn = {"learning-rate.png", "report.md"}
    assert {name for name in after if after[name] != before[name]} == redrawn
    for name, more, what in (
        ("batch-size", ("--seeds", 3), "seeds is 2, not 3"),
        ("learning-rate", ("--model.d-ff", 128), "config.model.d_ff is 64, not 128"),
        ("learning-rate", ("--backend", "jax"), "backend is 'torch', not 'jax'"),
    ):
        assert what in refused(capsys, *command(name, corpus, out, *more))
    other = tmp_path / "other.txt"
    other.write_text("another text\n" * 100)
    assert "corpus_sha256" in refused(capsys, *command("learning-rate", other, out))
    assert contents(out).keys() == after.keys()
    assert "exists already" in refused(capsys, *command("sgd", corpus, corpus.parent))


def test_a_stopped_experiment_resumes_to_the_outcome_of_an_uninterrupted_one(
    swept: Path, corpus: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    evaluations = []

    def interrupted(*arguments: Any, **named: Any) -> evaluate.Evaluation:
        evaluations.append(arguments)
        if len(evaluations) == 3:  # in the middle of the second run
            signal.raise_signal(signal.SIGINT)
        return evaluate.evaluate(*arguments, **named)

    monkeypatch.setattr(train_module, "evaluate", interrupted)
    assert lm(*command("learning-rate", corpus, out)) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "lm: stopped; the same command continues"
    assert not (out / "report.md").exists()
    assert sorted(path.name for path in (out / "runs").iterdir()) == ["rate-0.001", "rate-0.03"]
    assert [path.name for path in (out / "runs" / "rate-0.03" / "checkpoints").iterdir()] == ["step-00000004"]
    kept = contents(out / "runs" / "rate-0.001")
    monkeypatch.undo()
    assert lm(*command("learning-rate", corpus, out)) == 0
    assert contents(out / "runs" / "rate-0.001") == kept
    uninterrupted, resumed = (
        [
            {k: v for k, v in o.items() if k != "seconds"}
            for o in json.loads((f / "results.json").read_text())["learning-rate"]["tried"]
        ]
        for f in (swept, out)
    )
    assert resumed == uninterrupted


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing",), "nothing"),
        (("learning-rate", "--rates", "0"), "rates: 0.0 is not a finite number above 0"),
        (("learning-rate", "--rates", "nan"), "rates: nan is not"),
        (("batch-size", "--batch-sizes", "-1"), "batch_sizes: -1 is not"),
        (("silu", "--seeds", "0"), "seeds: 0 is not"),
        (("silu", "--corpus", "/no/such.txt"), "/no/such.txt"),
        (("silu", "--config", "/no/such.toml"), "/no/such.toml"),
        (("silu", "--model.architecture", "encoder"), "experiments train a decoder"),
        (("no-norm", "--model.norm", "none"), "no-norm: model.norm is none; the baseline needs rmsnorm or"),
        (("all", "--model.ffn", "gelu"), "silu: model.ffn is gelu; the baseline needs swiglu"),
        (
            ("optimizer", "--optimizer.kind", "muon"),
            "optimizer: optimizer.kind is muon; the baseline needs adamw",
        ),
        (
            ("recipes", "--optimizer.kind", "muon"),
            "recipes: optimizer.kind is muon; the baseline needs adamw",
        ),
    ],
)
def test_what_lm_experiment_refuses(
    words: tuple[str, ...], said: str, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    assert said in refused(capsys, "experiment", *words, "--out", out)
    assert not out.exists()


def test_a_baseline_that_diverges_at_every_rate_is_refused_in_one_line(
    corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    arguments = ("experiment", "silu", "--corpus", corpus, "--out", out, *TINY, "--rates", 1e4, 1e5)
    assert lm(*arguments) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "lm: training diverges at every rate from 10000 to 100000: give lower rates with --rates"


def test_all_experiments_of_the_course_share_their_runs(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sizes = ("--rates", 3e-2, DIVERGING, "--batch-sizes", 2, 4)
    assert lm("experiment", "all", "--corpus", corpus, "--out", out, *TINY, "--seeds", 1, *sizes) == 0
    report, results = (out / "report.md").read_text(), json.loads((out / "results.json").read_text())
    assert results.keys() == {"machine", *COURSE}
    titles = re.findall("^## (.*)", report, re.MULTILINE)
    assert titles == [experiment.title for experiment in COURSE.values()]
    for name in COURSE:
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"]({name}.png)" in report
    changes = (
        "",
        "norm-none_",
        "norm-post_",
        "position-none_",
        "ffn-silu_d_ff-96_",
        "block-parallel_",
        "documents-packed_",
    )
    runs = {f"{change}rate-0.03" for change in changes}
    runs |= {f"{change}rate-10000" for change in changes if change != "norm-none_"}
    assert {path.name for path in (out / "runs").iterdir()} == {*runs, "rate-0.0212_batch-2"}
    made = dict(zip(*(cells(line) for line in report.splitlines()[4:7:2]), strict=True))
    assert made["training runs"] == str(len(runs) + 1)
    assert str(tmp_path) not in report


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_an_ablation_in_jax(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--backend", "jax", "--corpus", corpus, "--out", out, *TINY, "--rates", 3e-2)
    assert lm("experiment", "parallel", *arguments) == 0
    seconds = json.loads((out / "results.json").read_text())["parallel"]["step_seconds"]
    assert len(seconds["changed"]) == len(seconds["baseline"]) == 9
    losses = [
        read_metrics(out / "runs" / name)[-1]["val_loss"]
        for name in ("rate-0.03", "block-parallel_rate-0.03")
    ]
    assert losses[0] != losses[1]
    for loss in losses:
        assert f"{loss:.4f}" in (out / "report.md").read_text()


def test_the_command_knows_every_experiment() -> None:
    positional = typing.get_type_hints(Experiment)["name"]
    assert {*EXPERIMENTS, "all"} <= set(typing.get_args(positional))


def test_optimizers_are_compared_at_four_lengths_of_the_run(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = command("optimizer", corpus, out, "--seeds", 1)
    assert lm(*words) == 0
    facts = json.loads((out / "results.json").read_text())["optimizer"]
    assert [o["learning_rate"] for o in facts["tried"]] == [
        *(0.001, 0.03, DIVERGING, 0.015, 0.06),
        *([0.03] * 5),
        *(0.015, 0.06),
    ]
    best: dict[str, Any] = facts["best"]
    assert best["Muon"]["kind"] == "muon"
    for name, changes in best.items():
        assert [[o["steps"] for o in group] for group in facts["lengths"][name]] == [[2], [4], [8], [16]]
        # The run of the config's length is the best of those that were tried.
        tried = [o for o in facts["tried"] if o["name"].startswith("kind-muon") == (name == "Muon")]
        assert facts["lengths"][name][2][0] == min(tried, key=lambda o: o["val_loss"] or math.inf)
        config = (read_facts(out / "runs" / facts["lengths"][name][3][0]["name"]) or {})["config"]
        assert {**config["optimizer"], **changes} == config["optimizer"]
    before = contents(out / "runs")
    assert lm(*words) == 0
    assert contents(out / "runs") == before


def test_options_train_for_the_time_of_the_baseline(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    few = {"z-loss": {"z_loss": 1e-4}, "parallel blocks": {"block": "parallel"}}
    monkeypatch.setattr(recipes, "options", lambda config: few)
    monkeypatch.setattr(recipes, "helpful", lambda facts: list(facts["options"]))
    ratios = iter([1.0, 2.0, 0.5, 4.0])

    def step_seconds(runs: Runs, variants: dict[str, Any]) -> dict[str, list[float]]:
        assert list(variants) == ["baseline", "option"]
        return {"baseline": [0.1], "option": [0.1 * next(ratios)]}

    monkeypatch.setattr(Runs, "step_seconds", step_seconds)
    words = command("recipes", corpus, out, "--seeds", 1)
    assert lm(*words) == 0
    trials = json.loads((out / "results.json").read_text())["recipes"]["options"]
    assert {name: trial["outcomes"][0]["steps"] for name, trial in trials.items()} == {
        "Muon": 8,
        "z-loss": 4,
        "parallel blocks": 16,
        recipes.TOGETHER: 2,
    }
    together = trials[recipes.TOGETHER]["changes"]
    assert (together["z_loss"], together["block"], together["kind"]) == (1e-4, "parallel", "muon")
    # A second call measures nothing, so the runs are as long as before.
    (out / "results.json").unlink()
    before = contents(out / "runs")
    assert lm(*words) == 0
    assert contents(out / "runs") == before
