"""`python -m bench gpu`: every part at a tiny size on the CPU, and what the program does if a part fails."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jaxtyping
import pytest
import torch

from bench.gpu import checks, main, parts, report, runner
from lm.accounting.hardware import HARDWARE
from lm.files import read_object
from tests.pretend_gpu import pretend_gpu
from tests.source import ROOT
from tokenizer.errors import InputError

SETTINGS = parts.Settings("cpu", tiny=True, threads=1, rounds=1)
PARTS = {part.name: part for part in parts.make_parts(SETTINGS)}
# These need a compiler for C++ and minutes of its time.
COMPILED = [name for name in PARTS if "compiled" in name]


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    """Run every part in this process, without checks of shapes, and time nothing twice."""
    with mock.patch.object(jaxtyping.config, "jaxtyping_disable", True):
        return {
            name: {**parts.run(part), "seconds": 1.0} for name, part in PARTS.items() if name not in COMPILED
        }


def test_every_part_runs_on_a_cpu(answers: dict[str, Any]) -> None:
    assert len(answers) > 15
    assert {name: a for name, a in answers.items() if a["status"] not in ("passed", "measured")} == {}
    for backend in ("torch", "jax"):
        assert answers[f"parity {backend} float32"]["worst"]
        assert answers[f"decode {backend}"]["1"]["tokens_per_second"] > 0
        assert len(answers[f"step nano/8/float32 {backend}"]["samples"]["seconds"]) >= 3


@pytest.mark.parametrize("check", [checks.parity, checks.steps, checks.gradients, checks.bits, checks.greedy])
def test_the_checks_pass_on_a_pretended_gpu(check: Callable[..., dict[str, Any]]) -> None:
    """They hold torch's code for a GPU to the oracle and to the CPU."""
    dtype = ["float32"] if check is checks.parity else []
    with mock.patch.object(jaxtyping.config, "jaxtyping_disable", True), pretend_gpu():
        try:
            assert check(SETTINGS._replace(device="cuda:0"), "torch", *dtype)["status"] == "passed"
        finally:
            torch.set_default_device(None)


def test_the_report_shows_every_part_and_what_is_missing(answers: dict[str, Any], tmp_path: Path) -> None:
    results = runner.open_results(tmp_path / "results.json", SETTINGS)
    results["parts"], results["left_out"] = answers, COMPILED
    text = report.text(results)
    assert "the first steps of 4 contenders agree" in text
    assert "the dense peak of cpu is not known" in text
    for name, answer in answers.items():
        assert answer["status"] == "measured" or f"| {name} " in text
    assert all(name in text for name in COMPILED)
    answers = {**answers, "device torch": {**answers["device torch"], "name": "NVIDIA H200"}}
    assert "MFU is not given" not in report.text(results | {"parts": answers})


def test_a_contender_with_other_numbers_is_named(answers: dict[str, Any], tmp_path: Path) -> None:
    results = runner.open_results(tmp_path / "results.json", SETTINGS)
    name = "step nano/8/float32 jax"
    results["parts"] = answers | {name: {**answers[name], "loss": answers[name]["loss"] * 1.001}}
    assert "no parity: jax's loss differs from torch's" in report.text(results)


@pytest.mark.parametrize("chip", report.CHIPS)
def test_peaks_are_those_of_the_planner(chip: str) -> None:
    flops = HARDWARE[report.CHIPS[chip]].peak_flops
    assert report.peak(chip, "bfloat16") == flops["bfloat16"]
    assert report.peak(chip, "float32") == flops["float32"]
    assert flops["float32"] < float(report.peak(chip, "tf32") or 0) < flops["bfloat16"]
    assert report.peak(f"{chip} PCIe", "bfloat16") is None


# Programs that stand for parts.
ANSWERS = "import json, sys; json.dump({'status': 'passed'}, open(sys.argv[1], 'w'))"
CRASHES = "import sys; sys.exit('the device is lost')"
HANGS = """import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)"""


def run(out: Path, seconds: float = 60.0, **programs: str) -> dict[str, Any]:
    made = {name: parts.Part(name, 2, lambda: {}) for name in programs}

    def command(part: parts.Part, answer: Path, limit: float) -> list[str]:
        return [sys.executable, "-c", programs[part.name], str(answer)]

    return runner.run(made, SETTINGS, seconds, out, command)


def test_a_part_that_crashes_or_hangs_is_recorded_and_the_next_one_runs(tmp_path: Path) -> None:
    found = run(tmp_path / "out", a=CRASHES, b=HANGS, c=ANSWERS)["parts"]
    assert {name: part["status"] for name, part in found.items()} == {
        "a": "crashed",
        "b": "out of time",
        "c": "passed",
    }
    assert found["a"]["said"] == ["the device is lost"]
    child = Path("/proc") / found["b"]["said"][0]
    for _ in range(100):
        if not child.exists() or "Z" in (child / "stat").read_text(encoding="utf-8").split()[2]:
            break
        time.sleep(0.05)
    else:
        raise AssertionError("the part's own process still runs")


def test_results_are_continued(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(out, a=ANSWERS, b=CRASHES)["left_out"] == []
    before = read_object(out / "results.json", "")["parts"]["a"]
    # What has passed is kept, what is missing comes first, and what crashed comes last.
    again = run(out, a=CRASHES, b=ANSWERS, c=ANSWERS)
    assert again["parts"]["a"] == before
    assert [part["status"] for part in again["parts"].values()] == ["passed"] * 3
    assert list(again["parts"]) == ["a", "b", "c"]


def test_the_parts_are_listed_by_worth(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers are checked before anything is timed, and the row of the aims is timed first."""
    main(["--out", "nowhere", "--list"])
    names = [line.partition(" s  ")[2] for line in capsys.readouterr().out.splitlines()]
    steps = [i for i, name in enumerate(names) if name.startswith("step ")]
    for check in ("device", "parity", "steps", "gradients", "bits", "greedy"):
        for backend in parts.BACKENDS:
            assert next(i for i, name in enumerate(names) if name.startswith(f"{check} {backend}")) < steps[0]
    assert names[steps[0]] == "step gpt2-small/32/bfloat16 torch"
    assert not Path("nowhere").exists()


def test_no_part_starts_after_the_time(tmp_path: Path) -> None:
    results = run(tmp_path / "out", seconds=0.0, a=ANSWERS)
    assert (results["parts"], results["left_out"]) == ({}, ["a"])


def test_results_of_another_device_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "out", a=ANSWERS)
    with pytest.raises(InputError, match="measured with another tiny"):
        runner.run({}, SETTINGS._replace(tiny=False), 1.0, tmp_path / "out")


def test_missing_packages_are_named_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.gpu.NEEDED", ("numpy", "no_such_package"))
    with pytest.raises(InputError, match="not installed: no_such_package; nothing was measured"):
        main(["--out", str(tmp_path / "out")])
    assert not list(tmp_path.iterdir())


WITHOUT = """
import sys
for name in ("platformdirs", "tyro", "beartype", "matplotlib", "scipy", "psutil", "transformers"):
    sys.modules[name] = None
import bench.gpu.checks, bench.gpu.speeds, bench.gpu.report, bench.generate, bench.jax_baseline, bench.torch_baseline
import torch_impl.backend, jax_impl.backend, parity.divergence
from lm.backend import load
from lm.config import ModelConfig, TrainConfig
for name in ("torch", "jax"):
    load(name, TrainConfig(ModelConfig(1, 1, 2, 1, 1)))
"""


def test_the_program_needs_only_what_a_machine_with_both_frameworks_has() -> None:
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
