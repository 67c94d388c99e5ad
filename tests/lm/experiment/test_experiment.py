"""`lm experiment`: runs that are kept and resumed, findings that follow from them, pages that do not drift."""

import dataclasses
import json
import math
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm.budgets import BUDGETS
from lm.cli.commands import parse
from lm.experiment import ablations, batches, compression, pages, rates, samples, toy
from lm.experiment.catalogue import EXPERIMENTS
from lm.experiment.outcomes import Outcome, as_facts
from lm.experiment.runs import Plan, changed
from lm.init import parameter_shapes
from lm.rng import normal, philox
from lm.run import evaluate
from lm.run import train as train_module
from lm.run.facts import read_facts
from lm.run.metrics import read_metrics
from tests.lm.cli.test_cli import refused
from tests.lm.conftest import lm
from tests.source import ROOT

Capture = pytest.CaptureFixture[str]
TINY = (
    *(
        "--model.vocab-size",
        300,
        "--model.context-length",
        16,
        "--model.d-model",
        16,
        "--model.num-layers",
        1,
    ),
    *("--model.num-heads", 2, "--steps", 8, "--batch-size", 4, "--eval-interval", 4, "--save-interval", 2),
    *("--eval-windows", 8, "--optimizer.warmup-steps", 2, "--seeds", 2),
)
DIVERGING = 1e4


def command(name: str, corpus: Path, out: Path, *more: object) -> tuple[object, ...]:
    """The command of a tiny experiment, of two rates that train and one that does not."""
    rates = ("--rates", 1e-3, 3e-2, DIVERGING)
    return ("experiment", name, "--corpus", corpus, "--out", out, *TINY, *rates, *more)


@pytest.fixture(scope="module")
def corpus(made_pipeline: Path) -> Path:
    """A small text."""
    return made_pipeline / "train.txt"


@pytest.fixture(scope="module")
def swept(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a learning-rate experiment; not to be changed."""
    out = tmp_path_factory.mktemp("swept") / "out"
    assert lm(*command("learning-rate", corpus, out)) == 0
    return out


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of every file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


# Runs and folders


def test_one_folder_holds_configs_metrics_curves_and_a_report(swept: Path) -> None:
    assert (swept / "curves.png").read_bytes().startswith(b"\x89PNG")
    runs = sorted(path.name for path in (swept / "runs").iterdir())
    assert runs == ["rate-0.001", "rate-0.03", "rate-0.03_seed-1", "rate-10000"]
    losses = {}
    for name in runs:
        facts = read_facts(swept / "runs" / name)
        assert facts
        assert facts["config"]["optimizer"]["learning_rate"] == float(name.split("_")[0].split("-")[1])
        metrics = read_metrics(swept / "runs" / name)
        losses[name] = next((m["val_loss"] for m in reversed(metrics) if "val_loss" in m), None)
    report = (swept / "report.md").read_text()
    assert losses["rate-0.03"] < losses["rate-0.001"]
    mean = (losses["rate-0.03"] + losses["rate-0.03_seed-1"]) / 2
    assert f"rates is 0.03**, with a validation loss of {mean:.4f}, the mean of 2 seeds" in report
    for name in ("rate-0.001", "rate-0.03", "rate-0.03_seed-1"):
        assert f"{losses[name]:.4f}" in report
    assert re.search(r"\| rate-10000 +\| +10000 .*diverged: not finite at step \d", report)
    assert "![" in report
    assert "(curves.png)" in report
    assert str(swept) not in report


def test_the_same_command_does_nothing_again_and_another_is_refused(
    swept: Path, corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = shutil.copytree(swept, tmp_path / "out", copy_function=shutil.copy2)
    before = contents(out)
    assert lm(*command("learning-rate", corpus, out)) == 0
    after = contents(out)
    assert {name: data for name, (data, _) in after.items()} == {n: data for n, (data, _) in before.items()}
    redrawn = {"curves.png", "report.md"}
    assert {name for name in after if after[name] != before[name]} == redrawn
    for name, more, what in (
        ("batch-size", (), "experiment, 'learning-rate' and not 'batch-size'"),
        ("learning-rate", ("--model.d-ff", 128), "config.model.d_ff, 64 and not 128"),
        ("learning-rate", ("--backend", "jax"), "backend, 'torch' and not 'jax'"),
    ):
        assert what in refused(capsys, *command(name, corpus, out, *more))
    other = tmp_path / "other.txt"
    other.write_text("another text\n" * 100)
    assert "corpus_sha256" in refused(capsys, *command("learning-rate", other, out))
    assert contents(out).keys() == after.keys()
    assert "exists already" in refused(capsys, *command("sgd", corpus, corpus.parent))


def test_a_stopped_experiment_goes_on_to_the_same_end(
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
            for o in json.loads((f / "results.json").read_text())["tried"]
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
        (("silu", "--docs", "docs"), "--docs takes the pages of all"),
        (("silu", "--corpus", "/no/such.txt"), "/no/such.txt"),
        (("silu", "--config", "/no/such.toml"), "/no/such.toml"),
        (("silu", "--model.architecture", "encoder"), "experiments train a decoder"),
        (("no-norm", "--model.norm", "none"), "no-norm: model.norm is none; the baseline needs rmsnorm or"),
        (("all", "--model.ffn", "gelu"), "silu: model.ffn is gelu; the baseline needs swiglu"),
    ],
)
def test_what_lm_experiment_refuses(
    words: tuple[str, ...], said: str, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    assert said in refused(capsys, "experiment", *words, "--out", out)
    assert not out.exists()


def test_a_baseline_that_diverges_at_every_rate_is_one_line(
    corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    arguments = ("experiment", "silu", "--corpus", corpus, "--out", out, *TINY, "--rates", 1e4, 1e5)
    assert lm(*arguments) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "lm: training diverges at every rate from 10000 to 100000: give lower ones, --rates"


def plan(*flags: object) -> Plan:
    """The plan that `lm experiment` makes of flags."""
    words = [str(flag) for flag in ("experiment", "sgd", *flags)]
    return Plan(parse(words).settings, "torch")


def test_changes_of_the_baseline_keep_what_they_must() -> None:
    base = plan("--optimizer.min-learning-rate", 1e-3).config
    assert plan().rates[0] == base.optimizer.learning_rate / 100
    config = changed(base, {"batch_size": 32, "learning_rate": 0.02, "norm": "none", "seed": 5})
    assert config.batch_size * config.steps == base.batch_size * base.steps
    assert config.optimizer.warmup_steps / config.steps == base.optimizer.warmup_steps / base.steps
    assert config.optimizer.learning_rate == 0.02
    assert config.optimizer.min_learning_rate == pytest.approx(0.002)
    assert (config.model.norm, config.seed) == ("none", 5)
    silu = changed(base, ablations.ABLATIONS["silu"].changes(base.model)).model
    assert silu.d_ff == 4 * base.model.d_model

    def parameters(model: Any) -> int:
        return sum(map(math.prod, parameter_shapes(model).values()))

    assert parameters(silu) == parameters(base.model)


def test_batch_sizes_end_where_memory_or_steps_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batches.batch_sizes(plan()) == [1, 4, 16, 64, 256, 1024]
    assert batches.batch_sizes(plan("--batch-size", 8, "--steps", 32)) == [1, 4, 8, 16, 64]
    room = batches.fits(plan())
    assert room
    per_window = room["memory"] / room["batch_size"]
    monkeypatch.setattr(batches, "fits", lambda plan: {"batch_size": 70})
    assert batches.batch_sizes(plan()) == [1, 4, 16, 64]
    # A window keeps at least its logits and residual streams.
    model = plan().config.model
    assert per_window > 4 * model.context_length * (model.vocab_size + 2 * model.num_layers * model.d_model)


# Findings


def outcome(loss: float | None, rate: float = 0.01, **facts: Any) -> Outcome:
    """A run of a made-up result."""
    default = Outcome(f"rate-{rate:g}", rate, 16, 0, 1000, 300, 307_200, 10.0, 6.0, loss, 6.1, None)
    return dataclasses.replace(default, **facts)


def told(paragraphs: list[str]) -> str:
    return " ".join(paragraphs)


def test_what_diverged_means() -> None:
    assert not outcome(6.5).diverged
    assert outcome(6.7).diverged
    assert outcome(None).diverged
    assert outcome(2.0, not_finite_at=7).diverged
    assert outcome(2.0, not_finite_at=7).loss == math.inf


def sweep(*losses: float | None, repeated: tuple[float, ...] = (2.0, 2.1), ratio: float = 10.0) -> str:
    tried = [outcome(loss, ratio**i) for i, loss in enumerate(losses)]
    return told(
        rates.findings({"tried": as_facts(tried), "repeated": as_facts([outcome(x) for x in repeated])})
    )


def test_findings_of_a_sweep_follow_its_runs() -> None:
    edge = sweep(3.0, 2.0, None)
    assert "**The best of 3 rates is 10**" in edge
    assert "**The best rate is at the edge of stability**" in edge
    assert "every other rate is worse by more than that" in edge
    far = sweep(3.0, 2.0, 2.05, 4.0, 90.0)
    assert (
        "**The best rate is not at the edge of stability**: training diverges only at 10000, 1,000 times"
        in far
    )
    assert "100 is worse" in far
    assert "Instability" not in far
    tried = [outcome(2.0, 0.1), outcome(2.5, 1.0, highest_loss=6.8), outcome(None, 10.0)]
    spiked = told(rates.findings({"tried": as_facts(tried), "repeated": as_facts(tried[:1])}))
    assert (
        "**Instability begins at 1**, 10 times the best rate: the training loss rises to 6.8 there" in spiked
    )
    assert "at 1000 it ends at 4.0000, 2.00 above the best" in far
    assert "No rate up to 100 makes training diverge" in sweep(3.0, 2.0, 3.0)
    coarse = sweep(3.0, 2.0, None, ratio=100.0)
    assert "**Whether the best rate is at the edge of stability is open**" in coarse
    assert "10000, 100 times as high" in coarse
    assert "which is the lowest tried" in sweep(2.0, 3.0, None)
    assert "which is the highest tried" in sweep(4.0, 3.0, 2.0)
    assert "Yet at 1000 it does not" in sweep(3.0, 2.0, None, 5.0)
    assert "with one seed, so how much of that is chance is not known" in sweep(
        3.0, 2.0, None, repeated=(2.0,)
    )


def ablated(
    tried: list[float | None],
    repeated: list[float | None],
    base: tuple[float, ...] = (2.0, 2.1, 2.05),
    step_seconds: dict[str, list[float]] | None = None,
    name: str = "no-norm",
) -> str:
    facts: dict[str, Any] = {
        "best_rate": 0.01,
        "baseline": as_facts([outcome(loss) for loss in base]),
        "tried": as_facts([outcome(loss, rate) for loss, rate in zip(tried, (0.001, 0.01), strict=True)]),
        "repeated": as_facts([outcome(loss) for loss in repeated]),
    }
    facts |= {"step_seconds": step_seconds} if step_seconds else {}
    return told(EXPERIMENTS[name].findings(facts))


def test_findings_of_an_ablation_follow_its_runs() -> None:
    assert "**Removing the norms hurts**" in ablated([3.0, 2.9], [2.9, 2.95, 3.0])
    assert "**Removing the norms helps**" in ablated([1.2, 1.1], [1.1, 1.0, 1.2])
    alike = ablated([2.2, 2.0], [2.0, 2.12, 2.1])
    assert "**Removing the norms makes no difference that these runs can show**" in alike
    assert "is not above the 0.1200 that the seed alone" in alike
    assert "**Removing the norms makes training diverge** at every rate tried, 0.001 and 0.01" in ablated(
        [None, None], []
    )
    assert "**Removing the norms makes training unreliable**: 1 of 2 seeds" in ablated(
        [3.0, 2.0], [2.0, None]
    )
    assert "with one seed**, which may be chance" in ablated([3.0, 2.5], [2.5], base=(2.0,))


def test_findings_say_whether_a_lower_rate_mends_it() -> None:
    mended = ablated([2.5, None], [2.5, 2.5, 2.5])
    assert "At the baseline's best rate, 0.01, it diverges: not finite; a lower one, 0.001, trains" in mended
    assert "other rates do not mend that" in ablated([None, None], [])
    assert "trains stably, to 2.0000, and other rates are no better" in ablated([2.5, 2.0], [2.0, 2.0, 2.0])
    assert "a lower one, 0.001, is better by 0.5000" in ablated([2.0, 2.5], [2.0, 2.0, 2.0])


def test_findings_of_time_follow_the_rounds() -> None:
    def timed(changed: list[float]) -> str:
        seconds = {"baseline": [1.0, 1.0, 2.0], "changed": changed}
        return ablated([2.0, 2.0], [2.0], step_seconds=seconds, name="parallel")

    assert "**A step is faster**" in timed([0.8, 0.9, 1.4])
    assert "the ratio is 0.800 (median of 3 rounds in which the two took turns; 0.700 to 0.900)" in timed(
        [0.8, 0.9, 1.4]
    )
    assert "**A step is slower**, in 3 rounds of 3" in timed([1.1, 1.2, 2.1])
    assert "there is no clear difference" in timed([0.9, 1.1, 2.0])
    assert "and it was faster in 1." in timed([0.9, 1.1, 2.0])
    assert "median" not in ablated([2.0, 2.0], [2.0])


def test_findings_of_batch_sizes_follow_the_runs() -> None:
    def batched(
        *losses: float | None,
        seconds: tuple[float, ...] = (9.0, 3.0, 1.0),
        most: int = 300,
        steps: int = 300,
    ) -> str:
        outcomes = [
            outcome(loss, batch_size=size, seconds=s, steps=steps)
            for loss, size, s in zip(losses, (1, 16, 256), seconds, strict=True)
        ]
        return told(
            batches.findings(
                {
                    "outcomes": as_facts(outcomes),
                    "repeated": as_facts([outcome(2.0), outcome(2.1)]),
                    "base": 16,
                    "best_rate": 0.01,
                    "context_length": 64,
                    "fits": {"memory": 2**30, "batch_size": most},
                }
            )
        )

    small = batched(1.5, 2.0, 3.0)
    assert "**The lowest loss is that of batch size 1**" in small
    assert "Every other size is worse by more" in small
    assert "1.0 GiB of memory hold batches of up to 300 windows" in small
    assert "256, is within a factor of 4 of that" in small
    assert "256, is not where memory ends" in batched(1.5, 2.0, 3.0, most=5000)
    assert "256, leaves 7 steps, so that the schedule ends" in batched(1.5, 2.0, 3.0, most=5000, steps=7)
    assert "The largest, 256, ends 1.5000 above it" in small
    assert "costs that do not shrink with its batch" in small
    large = batched(3.0, 2.05, 2.0, seconds=(1.0, 1.0, 9.0))
    assert "**The lowest loss is that of batch size 256**" in large
    assert "by no more, 16 is worse" in large
    assert "here larger batches do not pay" in large
    assert "The smallest, 1, diverges" in batched(None, 2.0, 3.0)
    assert "Every batch size diverges" in batched(None, None, None)


def test_findings_of_samples_follow_the_shares() -> None:
    def sampled(known: tuple[float, ...]) -> str:
        points = [
            {"temperature": t, "words": 9, "known": k, "distinct": d, "text": "a\x07\n"}
            for t, k, d in zip((0.6, 1.3, 1.5), known, (0.2, 0.8, 0.9), strict=False)
        ]
        facts = {"by_temperature": points, "parameters": 9, "tokens": 9, "val_loss": 2.0, "floor": 0.5}
        return told(samples.findings(facts))

    assert "the more words are made up" in sampled((1.0, 0.6))
    assert "2.0000, 1.50 above the entropy floor" in sampled((1.0, 0.6))
    assert "does not fall steadily" in sampled((0.6, 1.0))
    assert "does not fall steadily" in sampled((1.0, 0.5, 0.6))
    assert "At temperature 1.3:\n\n> a\ufffd" in sampled((1.0, 0.6))


def tokenized(**changes: Any) -> dict[str, Any]:
    names = ("stories", "reference")
    trained = {"asked": 300, "vocab_size": 300, "seconds": 1.0, "longest": [" friend", "|====|`", *"abc"]}
    facts: dict[str, Any] = {
        "trained": dict.fromkeys(names, trained),
        "bytes_per_token": {
            "stories": {"stories": 4.0, "reference": 2.0},
            "reference": {"stories": 2.5, "reference": 4.0},
        },
        "throughput": {"tokenizer": "stories", "bytes": 10**7, "bytes_per_second": 1e8},
        "vocab_sizes": dict.fromkeys(names, 300),
        "dtypes": dict.fromkeys(names, "uint16"),
    }
    return facts | changes


def test_findings_of_tokenizers_follow_the_numbers() -> None:
    said = compression.findings(tokenized())
    assert (
        "reference by the tokenizer of stories: 2.00 bytes per token, 100% more tokens"
        in said["other corpus"]
    )
    assert "**A tokenizer compresses best what it was trained on**" in said["other corpus"]
    assert "100.0 MB a second**, so the Pile's 825 GB would take 2.3 hours" in said["throughput"]
    assert "**uint16 is enough**" in said["dtype"]
    assert "``|====|```" in said["longest, stories"]
    assert "4 of these 5 are words" in said["longest, stories"]
    other = {"stories": {"stories": 4.0, "reference": 5.0}, "reference": {"stories": 2.5, "reference": 4.0}}
    assert "20% fewer tokens" in compression.findings(tokenized(bytes_per_token=other))["other corpus"]
    assert "not always worse" in compression.findings(tokenized(bytes_per_token=other))["other corpus"]
    large = tokenized(vocab_sizes={"stories": 100_000}, dtypes={"stories": "uint32"})
    assert "**uint32 is needed**" in compression.findings(large)["dtype"]


# The toy


def test_both_backends_descend_as_the_formula_says() -> None:
    start = float(np.mean((5 * normal(philox(0, "toy"), 100)) ** 2))
    facts = toy.run()
    for by_rate in facts["losses"].values():
        for rate in toy.RATES:
            factor = 1.0
            for t, loss in enumerate(by_rate[f"{rate:g}"]):
                # A factor of exactly 0 leaves nothing but rounding.
                assert loss == pytest.approx(
                    start * factor**2, rel=10 * BUDGETS["float32"].forward, abs=1e-12
                )
                factor *= 1 - rate / 50 / math.sqrt(t + 1)
    said = told(toy.findings(facts))
    assert "At 10 the first factor is 0.8, and the loss **falls**" in said
    assert "At 100 the first factor is -1, and the loss **falls to nothing**" in said
    assert "At 1000 the first factor is -19, and the loss **grows: it diverges**" in said


# Pages


def test_all_experiments_share_their_runs_and_write_the_pages(
    corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    out, docs = tmp_path / "out", tmp_path / "docs"
    docs.mkdir()
    answers = docs / "answers.md"
    answers.write_text(f"# Mine\n\n{pages.BEGIN}\nstale\n{pages.END}\nafter\n")
    sizes = ("--rates", 3e-2, DIVERGING, "--batch-sizes", 2, 4)
    arguments = ("experiment", "all", "--corpus", corpus, "--out", out, *TINY, "--seeds", 1, *sizes)
    assert lm(*arguments, "--docs", docs) == 0
    overview, page = (out / "report.md").read_text(), (docs / "experiments.md").read_text()
    for name, experiment in EXPERIMENTS.items():
        assert (out / name / "curves.png").read_bytes() == (docs / "experiments" / f"{name}.png").read_bytes()
        assert experiment.title in (out / name / "report.md").read_text()
        for text, picture in ((overview, f"{name}/curves.png"), (page, f"experiments/{name}.png")):
            assert f"## {experiment.title}\n" in text
            assert f"]({picture})" in text
    changes = ("", "norm-none_", "norm-post_", "position-none_", "ffn-silu_d_ff-96_", "block-parallel_")
    ours = {f"{change}rate-0.03" for change in changes} | {
        f"{c}rate-10000" for c in changes if c != "norm-none_"
    }
    runs = {path.name for path in (out / "runs").iterdir()}
    assert runs == {*ours, "rate-0.0212_batch-2"}
    assert f"There are {len(runs)} training runs" in page
    assert "There are 3 training runs" in (out / "silu" / "report.md").read_text()
    assert str(tmp_path) not in overview + page
    said = answers.read_text()
    assert said.startswith(f"# Mine\n\n{pages.BEGIN}\n\n## Tokenizer")
    assert said.endswith(f"{pages.END}\nafter\n")
    assert "stale" not in said
    # A page of somebody else's is left alone, and so is one without the marks: said before anything is run.
    (out / "report.md").unlink()
    (docs / "experiments.md").write_text("mine")
    assert lm(*arguments, "--docs", docs) == 2
    assert "was not written by lm experiment" in capsys.readouterr().err
    (docs / "experiments.md").unlink()
    answers.write_text("no marks")
    assert lm(*arguments, "--docs", docs) == 2
    assert "answers.md: lacks the lines" in capsys.readouterr().err
    assert answers.read_text() == "no marks"
    assert not (docs / "experiments.md").exists()
    assert not (out / "report.md").exists()


def test_an_ablation_in_jax(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--backend", "jax", "--corpus", corpus, "--out", out, *TINY, "--rates", 3e-2)
    assert lm("experiment", "parallel", *arguments) == 0
    facts = json.loads((out / "results.json").read_text())
    assert len(facts["step_seconds"]["changed"]) == len(facts["step_seconds"]["baseline"]) == 9
    losses = {}
    for name in ("rate-0.03", "block-parallel_rate-0.03"):
        losses[name] = read_metrics(out / "runs" / name)[-1]["val_loss"]
        assert f"{losses[name]:.4f}" in (out / "report.md").read_text()
    assert len(set(losses.values())) == 2
    assert "wall time" in (out / "report.md").read_text()


def test_the_committed_pages_are_what_the_committed_results_say() -> None:
    results = json.loads((ROOT / "docs" / "experiments" / "results.json").read_text())
    assert (ROOT / "docs" / "experiments.md").read_text() == pages.overview(results, "experiments/{name}.png")
    answers = (ROOT / "docs" / "answers.md").read_text()
    assert pages.with_answers(ROOT / "docs" / "answers.md", results) == answers
    assert {path.stem for path in (ROOT / "docs" / "experiments").glob("*.png")} == set(EXPERIMENTS)
    assert {name for name in results if name in EXPERIMENTS} == set(EXPERIMENTS)
    for page in (ROOT / "docs" / "experiments.md").read_text(), answers:
        assert not re.search(r"/(tmp|home|root|work)/", page)
