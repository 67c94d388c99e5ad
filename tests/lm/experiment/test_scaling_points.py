"""`lm experiment scaling --points`: the course's isoflops file gives tables, results and a picture."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from lm.experiment.scaling import file as file_module
from lm.experiment.scaling.fit import fit_points
from tests.lm.conftest import lm, refused
from tests.lm.experiment.test_scaling_fit import BUDGETS, E, best_size, grid

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty bootstrap samples in place of 200."""
    monkeypatch.setattr(file_module, "fit_points", functools.partial(fit_points, resamples=20))


def runs() -> list[dict[str, Any]]:
    """Runs in the form of the course's file."""
    return [
        {"parameters": round(p.parameters), "compute_budget": p.flops, "final_loss": p.loss}
        for p in grid(3e-3)
    ]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "isoflops.json"
    path.write_text(json.dumps(runs()))
    return path


def test_a_file_of_points_gives_tables_results_and_a_picture(
    file: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("experiment", "scaling", "--points", file, "--floor", E, "--predict", "1e23", "1e24")
    assert lm(*command) == 0
    printed = capsys.readouterr().out
    out = tmp_path / "runs" / "scaling-isoflops"
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads((out / "results.json").read_text())
    assert len(facts["points"]) == 35
    report = (out / "report.md").read_text()
    assert "![Losses and fits](curves.png)" in report
    for table in ("best at 1e23 FLOPs", "best at 1e24 FLOPs", "in standard errors", "lowest runs"):
        assert table in report
        assert table in printed
    for method, numbers in facts["methods"].items():
        found = numbers["N at 1e+23"]
        assert found["low"] < best_size(1e23) < found["high"], method
    # The same command gives the same digits, and another command is refused.
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert lm(*command) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert "whose floor is 1.69, not None" in refused(
        capsys, "experiment", "scaling", "--points", file, "--predict", 1e23, 1e24
    )


def test_a_file_may_give_the_tokens(tmp_path: Path) -> None:
    path = tmp_path / "points.json"
    # With three times the tokens at the same FLOPs, a token costs a third.
    listed = [
        run | {"tokens": run["compute_budget"] / (2 * run["parameters"]), "rate": 0.1} for run in runs()
    ]
    path.write_text(json.dumps(listed))
    assert lm("experiment", "scaling", "--points", path, "--out", tmp_path / "out") == 0
    facts = json.loads((tmp_path / "out" / "results.json").read_text())
    assert facts["flops"]["coefficient"] == pytest.approx(2, rel=1e-6)
    assert facts["predict"] == [4 * max(BUDGETS)]
    assert facts["methods"].keys() == {"law, E free", "parabolas, E free", "lowest runs"}


FORM = 'write a list such as [{"parameters": N, "compute_budget": FLOPs, "final_loss": nats}, ...]'
RUN = runs()[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", FORM),
        ("[1,", FORM),
        ("{}", f"not a list of runs; {FORM}"),
        ("[]", "0 points do not determine"),
        ("[1]", f"run 0 (counted from 0) is not an object; {FORM}"),
        (
            json.dumps([RUN, {"parameters": 1, "final_loss": 2}]),
            "run 1 (counted from 0) has no compute_budget",
        ),
        *(
            (
                json.dumps([RUN | {key: value}]),
                f"run 0 (counted from 0): {key} is {value!r}; give a number from 1e-40 to 1e40",
            )
            for key in (*RUN, "tokens")
            for value in (0, -1.5, "2", None, True, [3])
        ),
        (json.dumps([RUN]).replace("6e+18", "1e999"), "compute_budget"),
        (json.dumps([RUN]).replace("6e+18", "NaN"), FORM),
        (json.dumps([RUN]).replace("6e+18", "9" * 400), "compute_budget"),
        (
            json.dumps([run for run in runs() if run["compute_budget"] == 6e18]),
            "the points have 1 compute budgets",
        ),
    ],
)
def test_a_file_that_is_no_list_of_runs_is_refused_in_one_line(
    text: str, said: str, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "points.json"
    path.write_text(text)
    error = refused(capsys, "experiment", "scaling", "--points", path, "--out", tmp_path / "out")
    assert error.startswith(f"lm: {path}: ")
    assert said in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("scaling", "--points", "/no/such.json"), "/no/such.json"),
        (("scaling", "--points", "/"), "/: is a folder"),
        (
            ("scaling", "--points", "FILE", "--predict", "0"),
            "predict: 0.0 is not a number from 1e-40 to 1e40",
        ),
        (("scaling", "--points", "FILE", "--predict", "nan"), "predict: nan is not"),
        (
            ("scaling", "--points", "FILE", "--floor", "3"),
            "floor: 3.0 is not between 0 and the lowest loss, 2.2",
        ),
        (("sgd", "--points", "FILE"), "lm experiment scaling --points FILE.json"),
        (("scaling", "--floor", "1"), "floor: is for points of a file; give --points FILE.json too"),
        (("scaling", "--predict", "1e23"), "predict: is for points of a file; give --points FILE.json too"),
    ],
)
def test_what_points_refuses(
    words: tuple[str, ...], said: str, file: Path, tmp_path: Path, capsys: Capture
) -> None:
    words = tuple(str(file) if word == "FILE" else word for word in words)
    assert said in refused(capsys, "experiment", *words, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
