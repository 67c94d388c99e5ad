"""The command `lm accounting`: its flags, its tables, its errors."""

import json
from dataclasses import replace

import pytest

from lm import flops
from lm.accounting.activations import ACCOUNTS
from lm.accounting.presets import PRESETS, parse_bytes
from lm.accounting.report import account
from lm.config import CONFIGS
from tests.lm.accounting.cases import Capture, tell
from tests.lm.conftest import lm, refused


def test_flags_recompute(capsys: Capture) -> None:
    before, after = (tell(capsys, "gpt2-xl", *f) for f in ((), ("--context-length", 16384)))
    shares = [{m["name"]: m["share"] for m in facts["forward"]["matmuls"]} for facts in (before, after)]
    assert shares[0]["layers.*.attn.scores"] < 0.05 < 0.25 < shares[1]["layers.*.attn.scores"]
    assert before["parameters"] == after["parameters"]
    # What follows from d_model follows a flag that changes it.
    assert tell(capsys, CONFIGS / "demo.toml", "--d-model", 256)["model"]["d_ff"] == 704
    assert tell(capsys, "gpt2-small", "--compute-dtype", "bfloat16")["memory"]["torch"]["a"] < (
        0.8 * before["memory"]["torch"]["a"]
    )


def test_days_of_training(capsys: Capture) -> None:
    flags = ("--batch-size", 1024, "--peak-flops", 19.5e12)
    by_steps = tell(capsys, "gpt2-xl", *flags, "--steps", 400_000)
    training = by_steps["training"]
    seconds = 3 * by_steps["forward"]["flops"] * 1024 * 400_000 / (0.5 * 19.5e12)
    assert training["days"] == pytest.approx(seconds / 86_400)
    assert training["flops_per_token"] == flops.train_flops_per_token(PRESETS["gpt2-xl"].model)
    by_tokens = tell(capsys, "gpt2-xl", *flags, "--tokens", training["tokens"], "--mfu", 0.25)
    assert by_tokens["training"]["steps"] == 400_000
    assert by_tokens["training"]["days"] == pytest.approx(2 * training["days"])
    assert "days" not in tell(capsys, "gpt2-xl")["training"]


def test_the_table_says_what_json_says(capsys: Capture) -> None:
    flags = ("gpt2-small", "--memory", "80GB", "--peak-flops", 312e12)
    facts = tell(capsys, *flags)
    assert facts == json.loads(
        json.dumps(account(replace(PRESETS["gpt2-small"], peak_flops=312e12), 0.5, None, 8 * 10**10))
    )
    assert lm("accounting", *flags) == 0
    table = capsys.readouterr().out
    assert f"{facts['parameters']['total']:,}" in table
    assert f"{facts['training']['days']:,.2f} days" in table
    for product in facts["forward"]["matmuls"]:
        (line,) = [
            line for line in table.split("\n") if line.startswith(product["name"] + " ") and " x " in line
        ]
        assert line.split()[-2:] == [f"{product['flops']:.4g}", f"{product['share']:.2%}"]
    (line,) = [line for line in table.split("\n") if line.startswith("most at once in 80.000 GB")]
    assert line.split()[-3:] == [str(facts["memory"][name]["largest_batch"]) for name in ACCOUNTS]


def test_sizes_of_memory() -> None:
    assert [parse_bytes(text) for text in ("80GB", "80GiB", "24 gb", "0.5TB", "7B")] == [
        80 * 10**9,
        80 * 2**30,
        24 * 10**9,
        5 * 10**11,
        7,
    ]


def test_wrong_input_is_refused(capsys: Capture) -> None:
    for arguments, said in (
        (("gpt2-tiny",), "gpt2-small"),
        ((), "no config is given"),
        (("missing.toml",), "missing.toml"),
        (("gpt2-xl", "--num-heads", 7), "not divisible"),
        (("gpt2-xl", "--mfu", 0), "mfu"),
        (("gpt2-xl", "--memory", "much"), "80GB"),
        (("gpt2-xl", "--memory", "0GB"), "80GB"),
        (
            ("gpt2-xl", "--memory", "80"),
            "'80' is not a size of memory: give a number and its unit, such as 80GB",
        ),
        (("gpt2-xl", "--memory", "80G"), "its unit"),
        (("gpt2-xl", "--tokens", "nan"), "tokens"),
        (("gpt2-xl", "--peak-flops", -1), "peak_flops"),
    ):
        assert said in refused(capsys, "accounting", *arguments)
