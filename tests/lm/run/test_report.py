"""The output of lm runs and lm report."""

import json
import re
import shutil
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lm.cli import main
from lm.files import alone_in
from lm.run.metrics import read_metrics
from lm.run.report import list_runs, read_run, write_report
from tests.browser import browse, check_readable, needs_chromium
from tests.lm.conftest import lm, refused, train_command
from tokenizer import InputError

EVIL = "</script><script>document.title='evil'</script><img src=x onerror=alert(1)>&"


def page_data(page: str) -> dict[str, Any]:
    """Return the data in a page."""
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert match
    return dict(json.loads(match[1]))


def test_runs_are_listed_with_their_state(pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(pipeline / "jax" / "checkpoints" / "step-00000006")
    shutil.copytree(pipeline / "torch", pipeline / "more" / "new")
    shutil.rmtree(pipeline / "more" / "new" / "checkpoints")
    (pipeline / "more" / "bad").mkdir()
    (pipeline / "more" / "bad" / "run.json").write_text("{}")
    capsys.readouterr()
    with alone_in(pipeline / "torch"):
        assert lm("runs", pipeline) == 0
    header, *rows, broken = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "backend", "state", "step", "train", "val", "best", "tokens/s", "time"]
    assert [row.split()[:4] for row in rows] == [
        ["jax", "jax", "stopped", "6/6"],
        ["more/new", "torch", "new", "6/6"],
        ["torch", "torch", "running", "6/6"],
    ]
    assert "bad/run.json" in broken
    assert read_run(pipeline / "torch", "torch").state == "done"
    losses = [m["val_loss"] for m in read_metrics(pipeline / "jax") if "val_loss" in m]
    assert rows[0].split()[5:7] == [f"{losses[-1]:.4f}", f"{min(losses):.4f}"]
    assert "holds no runs" in refused(capsys, "runs", pipeline / "tokenizer")


def test_a_page_holds_the_runs_numbers(pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--sample-every", 3, "--sample-prompt", EVIL[:8], "--optimizer.beta2", 0.9)
    assert lm(*train_command(pipeline, "jax", pipeline / "sampled", *flags)) == 0
    out = pipeline / "report.html"
    assert main(["report", str(pipeline / "torch"), str(pipeline / "sampled"), "--out", str(out)]) == 0
    data = page_data(out.read_text())
    torch, sampled = data["runs"]
    metrics = read_metrics(pipeline / "torch")
    assert torch["train"]["train_loss"] == [m["train_loss"] for m in metrics if "train_loss" in m]
    assert torch["val"]["seconds"] == [m["seconds"] for m in metrics if "val_loss" in m]
    facts = json.loads((pipeline / "val.npy.json").read_text())
    assert torch["floor"] == facts["nats"] / facts["tokens"]
    assert [s["step"] for s in sampled["samples"]] == [3, 6]
    settings = {row[0]: row[1:] for row in data["settings"]}
    assert settings["optimizer.beta2"] == ["0.999", "0.9"]
    assert settings["backend"] == ["torch", "jax"]
    assert "optimizer.beta1" not in settings
    numbers = {row[0]: row[1:] for row in data["numbers"]}
    assert numbers["steps"] == ["6", "6"]
    assert all(float(cell.replace(",", "")) > 50 for cell in numbers["peak memory, MB"])
    assert "exists already" in refused(capsys, "report", pipeline / "torch", "--out", out)
    assert "holds no run.json" in refused(capsys, "report", pipeline / "tokenizer", "--out", pipeline / "r")
    assert "no run is given" in refused(capsys, "report")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", None),
        ("run.json", "[]"),
        ("run.json", '{"floor": NaN, '),
        ("run.json", '{"floor": "low", '),
        ("run.json", '{"versions": [], '),
        ("metrics.jsonl", '{"step": 1, "seconds": NaN, "tokens": 1}\n'),
        ("metrics.jsonl", '{"step": 1, "seconds": 1, "tokens": 1' + "0" * 400 + "}\n"),
        ("metrics.jsonl", '{"step": 1, "seconds": 1, "tokens": 1, "train_loss": 1' + "0" * 400 + "}\n"),
        ("metrics.jsonl", '{"step": 1, "seconds": 1, "tokens": 1, "val_loss": 1e999}\n'),
        ("metrics.jsonl", '{"step": "1", "seconds": 1, "tokens": 1}\n'),
        ("metrics.jsonl", "[" * 100_000 + "\n"),
    ],
)
def test_a_broken_run_is_named_and_the_others_shown(
    pipeline: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | None
) -> None:
    path = pipeline / "torch" / name
    if content is None:
        content = path.read_text()[:-9]
    elif content.endswith(", "):
        facts = {
            key: value for key, value in json.loads(path.read_text()).items() if f'"{key}"' not in content
        }
        content += json.dumps(facts)[1:]
    path.write_text(content)
    capsys.readouterr()
    assert lm("runs", pipeline) == 0
    _, jax, broken = capsys.readouterr().out.splitlines()
    assert jax.startswith("jax")
    assert broken.startswith(str(path))
    assert str(path) in refused(capsys, "report", pipeline / "torch", "--out", pipeline / "report.html")
    assert not (pipeline / "report.html").exists()


@pytest.mark.parametrize(
    "content", ["", "[]", "[" * 100_000, '{"iteration": "6", "evaluations_since_best": "x"}']
)
def test_a_run_whose_newest_checkpoint_is_broken(pipeline: Path, content: str) -> None:
    (pipeline / "torch" / "checkpoints" / "step-00000006" / "state.json").write_text(content)
    assert read_run(pipeline / "torch", "torch").state in ("new", "stopped")
    write_report([pipeline / "torch"], pipeline / "report.html")


def evil_page(pipeline: Path, other: str = "jax") -> Path:
    """Make a page of a run whose name and samples attack the page, and of another run."""
    folder = pipeline / EVIL.replace("/", "")
    shutil.copytree(pipeline / "torch", folder)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 6, "seconds": 9, "tokens": 1, "sample": EVIL}) + "\n")
    write_report([folder, pipeline / other], pipeline / "report.html")
    return pipeline / "report.html"


def test_a_page_is_complete_and_escapes_everything(pipeline: Path) -> None:
    page = evil_page(pipeline).read_text()
    tags: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)
            assert not {"src", "href"} & {name for name, _ in attrs}

    Parser().feed(page)
    assert tags.count("script") == 2
    assert "img" not in tags
    # Nothing is loaded from anywhere; the namespace of SVG is a name only.
    assert set(re.findall(r"https?://[\w.]+", page)) == {"http://www.w3.org"}
    assert "innerHTML" not in page
    assert page_data(page)["runs"][0]["samples"][-1]["sample"] == EVIL


def test_a_long_run_is_read_as_a_stream(pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A long run keeps its ends, its peaks and its gaps. Memory and page stay small."""
    losses = np.random.default_rng(0).normal(3, 0.1, 30_000)
    losses[12_345], losses[5_555] = 99.5, -7.25
    with (pipeline / "torch" / "metrics.jsonl").open("w") as file:
        for i, loss in enumerate(losses.tolist()):
            numbers = f'"train_loss": {loss if i % 7 else "null"}, "lr": {1 / (1 + i)}, "grad_norm": 1.5'
            file.write(f'{{"step": {i}, "tokens": {i * 64}, {numbers}, "seconds": {i / 10}}}\n')
            if i % 20 == 0:
                file.write(
                    f'{{"step": {i}, "tokens": {i * 64}, "val_loss": {loss + 1}, "seconds": {i / 10}}}\n'
                )
            if i % 500 == 0:
                file.write(
                    f'{{"step": {i}, "tokens": {i * 64}, "seconds": {i / 10}, "sample": "text {i}"}}\n'
                )
    tracemalloc.start()
    write_report([pipeline / "torch"], pipeline / "report.html")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 7e6  # all lines at once take 30
    page = (pipeline / "report.html").read_text()
    assert len(page) < 1e6
    (run_data,) = page_data(page)["runs"]
    train, val = run_data["train"], run_data["val"]
    for curve in (train, val):
        assert 500 <= len(curve["step"]) < 5000
        assert curve["step"] == sorted(curve["step"])
    assert (train["step"][0], train["step"][-1]) == (0, 29_999)
    assert max((loss or 0, step) for loss, step in zip(train["train_loss"], train["step"], strict=True)) == (
        99.5,
        12_345,
    )
    assert min(loss for loss in train["train_loss"] if loss is not None) == -7.25
    # In every part of the run as high and as low as it was.
    kept = np.array(train["step"])
    for start in range(0, 30_000, 3_000):
        part = losses[start : start + 3_000]
        shown = [
            x for x, s in zip(train["train_loss"], kept, strict=True) if x and start <= s < start + 3_000
        ]
        logged = part[np.arange(start, start + 3_000) % 7 != 0]
        assert (min(shown), max(shown)) == (logged.min(), logged.max())
    assert val["val_loss"][-1] == losses[29_980] + 1
    samples = [s["sample"] for s in run_data["samples"]]
    assert samples == [f"text {i}" for i in range(0, 30_000, 500)]
    capsys.readouterr()
    assert lm("runs", pipeline) == 0
    row = capsys.readouterr().out.splitlines()[2].split()
    lowest = min(losses[::20]) + 1
    shown = [f"{loss:.4f}" for loss in (losses[29_999], losses[29_980] + 1, lowest)]
    assert row[3:9] == ["29999/6", *shown, "640", "3000"]


def test_a_short_run_is_shown_whole_and_a_broken_one_not(pipeline: Path) -> None:
    records = [
        {"step": i, "tokens": i, "seconds": i / 10, "train_loss": None if i % 7 else 1.0, "lr": 0.1}
        for i in range(480)
    ]
    (pipeline / "torch" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    write_report([pipeline / "torch"], pipeline / "report.html")
    data = page_data((pipeline / "report.html").read_text())
    assert data["runs"][0]["train"]["step"] == [*range(480)]
    (pipeline / "torch" / "metrics.jsonl").write_text("no\n")
    assert list_runs(pipeline / "torch")
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 1: not a record"):
        write_report([pipeline / "torch"], pipeline / "other.html")


LOOKS = """
look(),
(runBox(0).click(), look()),
(runBox(0).click(), enter("#x", "tokens"), look()),
(enter("#x", "seconds"), document.querySelector("#log").click(), look()),
(enter("#x", "step"), document.querySelector("#log").click(), enter("#smooth", 0.98), look()),
(all("svg")[0].dispatchEvent(new PointerEvent("pointermove", {clientX: window.innerWidth / 2})), look())
"""
BOX = """const runBox = i => all("#bar label:has(.swatch) input")[i];"""
CURVES = {
    "Loss": [("train", "train_loss"), ("val", "val_loss")],
    "Learning rate": [("train", "lr")],
    "Gradient norm": [("train", "grad_norm")],
    "Throughput": [("train", "rate")],
    "Accuracy": [("val", "accuracy")],
    "Bits per byte": [("val", "bits_per_byte")],
}


def read_back(chart: dict[str, Any], path: int, logarithmic: bool = False) -> NDArray[np.float64]:
    """Return the points of a path in the units of the axes' labels, in two rows."""
    suffixes = {"k": 1e3, "M": 1e6, "G": 1e9}
    labels = [(x, y, float(t.rstrip("kMG")) * suffixes.get(t[-1], 1)) for x, y, t in chart["labels"]]
    right, bottom = min(x for x, _, _ in labels), max(y for _, y, _ in labels)
    x_axis = [(x, value) for x, y, value in labels if y == bottom]
    y_values = [value for x, y, value in labels if x == right and y != bottom]
    y_axis = list(zip(chart["grid"], np.log10(y_values) if logarithmic else y_values, strict=True))
    rows = []
    for pixels, axis in zip(np.transpose(chart["paths"][path]["points"]), (x_axis, y_axis), strict=True):
        (a, first), (b, last) = axis[0], axis[-1]
        rows.append(first + (pixels - a) * (last - first) / (b - a))
    return np.array([rows[0], 10 ** rows[1] if logarithmic else rows[1]])


def check_drawn(
    look: dict[str, Any], runs: list[dict[str, Any]], axis: str, logarithmic: bool = False
) -> None:
    """Check that every chart shows the runs' numbers, to a hundredth of the chart's size."""
    for chart in look["charts"]:
        expected = [
            np.array([run_data[kind][axis], run_data[kind][key]])
            for run_data in runs
            for kind, key in CURVES[chart["title"]]
        ]
        size = np.ptp(np.concatenate(expected, axis=1), axis=1, keepdims=True)
        assert len(chart["paths"]) == len(expected)
        for i, numbers in enumerate(expected):
            assert (np.abs(read_back(chart, i, logarithmic) - numbers) <= 0.01 * size).all()


@needs_chromium
def test_the_page_in_a_browser(pipeline: Path) -> None:
    """Use every control, and read what is drawn by the labels of the axes."""
    long_name = "a-run-whose-name-has-no-space-" * 3
    (pipeline / "jax").rename(pipeline / long_name)
    page = evil_page(pipeline, long_name).read_text(encoding="utf-8")
    runs = page_data(page)["runs"]
    for looks in browse(page, LOOKS, pipeline, BOX):
        for look in looks:
            check_readable(look)
            assert [chart["title"] for chart in look["charts"]] == [*CURVES]
        first, hidden, tokens, logarithmic, smooth, pointed = looks
        check_drawn(first, runs, "step")
        check_drawn(hidden, runs[1:], "step")
        check_drawn(tokens, runs, "tokens")
        check_drawn(logarithmic, runs, "seconds", logarithmic=True)
        colors = [path["color"] for path in first["charts"][1]["paths"]]
        assert len({*colors}) == 2
        assert [path["color"] for path in hidden["charts"][1]["paths"]] == colors[1:]
        # Smoothing keeps the first batch's loss and flattens the rest. It leaves the validation losses.
        raw, flat = ([read_back(look["charts"][0], i)[1] for i in range(4)] for look in (first, smooth))
        for i in (0, 2):
            assert np.ptp(flat[i]) < 0.2 * np.ptp(raw[i])
            assert flat[i][0] == pytest.approx(raw[i][0], rel=2e-3)
            assert flat[i + 1] == pytest.approx(raw[i + 1], rel=2e-3)
        lines = pointed["charts"][0]["tip"].split("\n")
        assert [line.rsplit("  ", 2)[0] for line in lines] == [
            f"{run_data['name']}  {key}" for run_data in runs for _, key in CURVES["Loss"]
        ]
