"""Tables of experiments: their numbers follow from the results."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from lm.budgets import BUDGETS
from lm.experiment import compression, optimizer, recipes, samples, toy
from lm.experiment.catalogue import EXPERIMENTS
from lm.experiment.outcomes import Outcome, as_facts, runs_table, seeds_table
from lm.experiment.report import report
from lm.rng import normal, philox

BATCH_SIZES = EXPERIMENTS["batch-size"]


def outcome(loss: float | None, rate: float = 0.01, **facts: Any) -> Outcome:
    """A run with a made-up result."""
    default = Outcome(f"rate-{rate:g}", rate, 16, 0, 1000, 300, 307_200, 10.0, 6.0, loss, 6.1, None)
    return dataclasses.replace(default, **facts)


def rows(table: str) -> list[dict[str, str]]:
    """The rows of a Markdown table, by the head of each column."""
    head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return [dict(zip(head, line, strict=True)) for line in lines]


def test_a_run_diverged_if_a_step_was_not_finite_or_its_loss_ends_above_that_of_chance() -> None:
    assert not outcome(6.5).diverged
    assert outcome(6.7).diverged
    assert outcome(None).diverged
    assert outcome(2.0, not_finite_at=7).diverged
    assert outcome(2.0, not_finite_at=7).loss == math.inf


def test_a_table_of_runs_gives_the_loss_of_each_or_how_it_diverged() -> None:
    runs = [
        outcome(2.0),
        outcome(1234.5, highest_loss=5000.0),
        outcome(None, highest_loss=None),
        outcome(2.0, not_finite_at=7),
    ]
    table = rows(runs_table({"one": runs[:1], "others": runs[1:]}))
    assert [row["run"] for row in table] == ["one", "others", "others", "others"]
    assert [row["validation loss"] for row in table] == [
        *("2.0000", "diverged: 1,234.5", "diverged: not finite", "diverged: not finite at step 7")
    ]
    assert [row["highest training loss"] for row in table] == ["6.1000", "5,000.0000", "-", "6.1000"]
    assert {(row["seconds"], row["tokens/s"]) for row in table} == {("10.0", "30,720")}


def test_a_table_of_seeds_compares_means_and_leaves_diverged_runs_out() -> None:
    groups = {
        "baseline": [outcome(2.0), outcome(2.1)],
        "worse": [outcome(3.0), outcome(None), outcome(2.5)],
        "one": [outcome(1.5)],
        "none": [outcome(None)],
    }
    found = [
        (row["seeds"], row["diverged"], row["mean loss"], row["lowest to highest"], row["difference"])
        for row in rows(seeds_table(groups))
    ]
    assert found == [
        ("2", "0", "2.0500", "0.1000", "+0.0000"),
        ("3", "1", "2.7500", "0.5000", "+0.7000"),
        ("1", "0", "1.5000", "-", "-0.5500"),
        ("1", "1", "-", "-", "-"),
    ]


def test_the_tables_of_an_ablation_hold_each_run_once_and_ratios_within_rounds() -> None:
    tried = [outcome(3.0, 0.001), outcome(2.5)]
    facts: dict[str, Any] = {
        "baseline": as_facts([outcome(2.0), outcome(2.1, seed=1)]),
        "tried": as_facts(tried),
        "repeated": as_facts([tried[1], outcome(2.6, seed=1)]),
    }
    runs, seeds = map(rows, EXPERIMENTS["silu"].tables(facts))
    assert [(row["run"], row["validation loss"]) for row in runs] == [
        *(("baseline", "2.0000"), ("baseline", "2.1000")),
        *(("SiLU", "3.0000"), ("SiLU", "2.5000"), ("SiLU", "2.6000")),
    ]
    assert [row["difference"] for row in seeds] == ["+0.0000", "+0.5000"]
    facts["step_seconds"] = {"baseline": [1.0, 1.0, 2.0], "changed": [0.8, 1.1, 1.4]}
    assert rows(EXPERIMENTS["parallel"].tables(facts)[2]) == [
        {
            "ms a step": "median",
            "baseline": "1000.0",
            "parallel": "1100.0",
            "ratio in a round": "0.800",
            "lowest to highest": "0.700 to 1.100",
            "rounds faster": "2 of 3",
        }
    ]


def test_the_tables_of_optimizers_give_the_steps_and_seconds_that_reach_a_loss() -> None:
    def groups(*losses: tuple[float, float]) -> list[list[dict[str, Any]]]:
        return [
            as_facts([outcome(loss, seed=seed, steps=100 * 2**i) for seed, loss in enumerate(of_seeds)])
            for i, of_seeds in enumerate(losses)
        ]

    facts = {
        "tried": as_facts([outcome(2.0)]),
        "floor": 0.5,
        "lengths": {
            "AdamW": groups((3.4, 3.6), (2.9, 3.1), (2.4, 2.6)),
            "Muon": groups((2.9, 3.1), (1.9, 2.1), (1.4, 1.6)),
        },
        "step_seconds": {"AdamW": [0.1, 0.2, 0.1], "Muon": [0.2, 0.2, 0.2]},
    }
    runs, lengths, reach, seconds = map(rows, optimizer.tables(facts))
    assert [row["run"] for row in runs] == ["rate-0.01"]
    assert [list(row.values()) for row in lengths] == [
        ["100", "2", "3.0000", "0.2000", "2.5000", "0.2000", "-0.5000"],
        ["200", "2", "2.5000", "0.2000", "1.5000", "0.2000", "-1.0000"],
        ["400", "2", "2.0000", "0.2000", "1.0000", "0.2000", "-1.0000"],
    ]
    # 2.5 lies half-way between Muon's 3.0 and 2.0, so it takes 100 sqrt(2) steps, each twice as long.
    by_seed = [f"{100 * 2**share:.0f}" for share in (0.4, 0.6)]
    assert [list(row.values()) for row in reach] == [
        ["3.0000", "100", *"------"],
        ["2.5000", "200", "100", "-", "0.50", "20.0", "20.0", "1.00"],
        ["2.0000", "400", "141", " to ".join(by_seed), "0.35", "40.0", "28.3", "0.71"],
    ]
    assert [list(row.values()) for row in seconds] == [
        ["median", "100.0", "200.0", "2.000", "1.000 to 2.000"]
    ]


def test_the_table_of_recipes_begins_with_the_largest_gain_and_says_which_is_beyond_chance() -> None:
    def trial(changes: dict[str, Any], *losses: float | None) -> dict[str, Any]:
        return {
            "changes": changes,
            "step_seconds": {"baseline": [1.0, 1.0, 1.0], "option": [1.5, 1.25, 0.5]},
            "outcomes": as_facts([outcome(loss, seed=seed) for seed, loss in enumerate(losses)]),
        }

    facts = {
        "baseline": as_facts([outcome(2.0), outcome(2.1, seed=1)]),
        "best_rate": 0.1,
        "floor": 0.5,
        "options": {
            "worse": trial({"block": "parallel"}, 2.5, 2.5),
            "chance": trial({"z_loss": 0.1}, 1.95, 2.1),
            "better": trial({"learning_rate": 0.1, "qk_norm": True}, 1.8, 1.8),
            "best": trial({"learning_rate": 0.2, "kind": "muon"}, 1.5, 1.6),
            "diverged": trial({"learning_rate": 9.0}, 1.0, None),
        },
    }
    gains, flags = map(rows, recipes.tables(facts))
    assert [list(row.values()) for row in gains] == [
        ["baseline", "1.000", "300", "1.5500", *"---"],
        ["best", "1.250", "300", "1.0500", "+0.5000", "+0.5000 to +0.5000", "yes"],
        ["better", "1.250", "300", "1.3000", "+0.2500", "+0.2000 to +0.3000", "yes"],
        ["chance", "1.250", "300", "1.5250", "+0.0250", "+0.0000 to +0.0500", "no"],
        ["worse", "1.250", "300", "2.0000", "-0.4500", "-0.5000 to -0.4000", "yes"],
        ["diverged", "1.250", "300", *"----"],
    ]
    assert [list(row.values()) for row in flags[:3]] == [
        ["baseline", "`--optimizer.learning-rate 0.1`"],
        ["best", "`--optimizer.learning-rate 0.2 --optimizer.kind muon`"],
        ["better", "`--model.qk-norm`"],
    ]
    assert recipes.helpful(facts) == ["best", "better"]
    assert recipes.combined(facts) == {"learning_rate": 0.2, "kind": "muon", "qk_norm": True}


def batch_sizes(fits: dict[str, int] | None) -> dict[str, Any]:
    """Facts of a batch-size experiment."""
    return {
        "outcomes": as_facts([outcome(1.5, name="rate-1_batch-1", batch_size=1), outcome(2.0)]),
        "repeated": as_facts([outcome(2.0), outcome(2.1, seed=1)]),
        "fits": fits,
    }


def test_the_tables_of_batch_sizes_end_with_the_memory_if_it_is_known() -> None:
    runs, seeds, memory = map(rows, BATCH_SIZES.tables(batch_sizes({"memory": 2**30, "batch_size": 3000})))
    assert [row["run"] for row in runs] == ["batch 1", "batch 16"]
    assert seeds[0]["mean loss"] == "2.0500"
    assert list(memory[0].values()) == ["1.0", "3,000"]
    assert len(BATCH_SIZES.tables(batch_sizes(None))) == 2


def test_the_report_counts_a_run_once_and_sums_up_the_seconds() -> None:
    rates = {
        "tried": as_facts([outcome(2.0), outcome(3.0, 0.1, seconds=80)]),
        "repeated": as_facts([outcome(2.0)]),
    }
    results = {"machine": {"cores": 2}, "batch-size": batch_sizes(None), "learning-rate": rates}
    text = report(results)
    assert rows("\n".join(text.split("\n")[4:7])) == [
        {"cores": "2", "training runs": "3", "minutes of training": "1.7"}
    ]
    assert text.index("![The learning rate](learning-rate.png)") < text.index(
        "![The batch size](batch-size.png)"
    )


def test_the_tables_of_samples_show_shares_and_printable_text() -> None:
    points = [
        {"temperature": t, "words": 9, "known": known, "distinct": 0.25, "text": "a\x07\nb\n"}
        for t, known in ((0.6, 1.0), (1.0, 0.8), (1.3, 0.6))
    ]
    facts = {"by_temperature": points, "parameters": 9000, "tokens": 9, "val_loss": 2.0, "floor": 0.5}
    model, shares, *texts = samples.tables(facts)
    assert list(rows(model)[0].values()) == ["9,000", "9", "2.0000", "0.5000", "1.5000"]
    assert [row["in the training text"] for row in rows(shares)] == ["100.0%", "80.0%", "60.0%"]
    assert texts == [f"At temperature {t}:\n\n> a\ufffd\n> b" for t in (0.6, 1.3)]
    assert list(rows(samples.tables(facts | {"floor": None})[0])[0].values())[3:] == ["-", "-"]


def test_the_tables_of_tokenizers_compare_each_with_a_corpus_own_tokenizer() -> None:
    names = ("stories", "reference")
    trained = {"asked": 300, "vocab_size": 290, "seconds": 1.0, "longest": [" friend", "|====|`", "x" * 40]}
    facts: dict[str, Any] = {
        "corpora": {name: {"train_bytes": 9000, "held_out_bytes": 1000} for name in names},
        "trained": dict.fromkeys(names, trained),
        "bytes_per_token": {
            "stories": {"stories": 4.0, "reference": 2.0},
            "reference": {"stories": 5.0, "reference": 3.0},
            "model": {"stories": 1.0, "reference": 1.0},
        },
        "throughput": {"tokenizer": "stories", "bytes": 10**7, "bytes_per_second": 1e8},
        "vocab_sizes": {"stories": 290, "reference": 70_000, "model": 260},
        "dtypes": {"stories": "uint16", "reference": "uint32", "model": "uint16"},
    }
    own, training, longest, corpora, speed = compression.tables(facts)
    assert [list(row.values()) for row in rows(own)] == [
        ["of stories", "290", "uint16", "4.000", "2.000", "+0.0%", "+50.0%"],
        ["of reference", "70,000", "uint32", "5.000", "3.000", "-20.0%", "+0.0%"],
        ["the model's own", "260", "uint16", "1.000", "1.000", "+300.0%", "+200.0%"],
    ]
    assert [list(row.values()) for row in rows(training)] == [
        [f"of {n}", "300", "290", "1.00"] for n in names
    ]
    assert f"- of stories: ` friend`, ``|====|```, `{'x' * 30}…` (40 characters)\n" in longest
    assert [list(row.values()) for row in rows(corpora)] == [[name, "9,000", "1,000"] for name in names]
    assert list(rows(speed)[0].values()) == ["stories", "100.0", "2.3"]


def test_both_backends_descend_as_the_formula_says() -> None:
    start = float(np.mean((5 * normal(philox(0, "toy"), 100)) ** 2))
    facts = toy.run()
    for by_rate in facts["losses"].values():
        for rate in toy.RATES:
            factor = 1.0
            for t, loss in enumerate(by_rate[f"{rate:g}"]):
                # If the factor is exactly 0, only rounding remains.
                assert loss == pytest.approx(
                    start * factor**2, rel=10 * BUDGETS["float32"].forward, abs=1e-12
                )
                factor *= 1 - rate / 50 / math.sqrt(t + 1)
    losses, differences = map(rows, toy.tables(facts))
    assert [row["steps taken"] for row in losses] == [
        f"{backend}, rate {rate}" for backend in ("torch", "jax") for rate in (10, 100, 1000)
    ]
    assert all(row["0"] == f"{start:.3g}" for row in losses)
    assert all(float(list(row.values())[1]) < 10 * BUDGETS["float32"].forward for row in differences)
