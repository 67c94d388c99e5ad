"""The files of TensorBoard and of Weights & Biases hold a run's metrics."""

import importlib
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lm.run.metrics import read_metrics
from lm.run.track import export
from tests.lm.conftest import lm, refused, train_command
from tests.lm.processes import Process, processes, wait_for
from tests.lm.run.test_train import leaves
from tests.source import ROOT
from tokenizer import InputError

Capture = pytest.CaptureFixture[str]
RECORDS: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")  # its types name no Record
KEYS = ("train_loss", "lr", "grad_norm", "val_loss", "accuracy", "perplexity", "bits_per_byte")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def expected(folder: Path, key: str) -> list[tuple[int, Any]]:
    return [(m["step"], m[key]) for m in read_metrics(folder) if m.get(key) is not None]


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def assert_tensorboard_holds(folder: Path) -> None:
    accumulator = events(folder)
    tags = {key for key in KEYS if expected(folder, key)}
    assert set(accumulator.Tags()["scalars"]) == tags
    for key in tags:
        scalars = [(event.step, event.value) for event in accumulator.Scalars(key)]
        assert [step for step, _ in scalars] == [step for step, _ in expected(folder, key)]
        numbers = [value for _, value in expected(folder, key)]
        assert [value for _, value in scalars] == pytest.approx(numbers, rel=1e-6)


def records(file: Path) -> list[Any]:
    """Return the records of a .wandb file. Its format is LevelDB's log: 7 bytes of header, then blocks of 32 KiB."""
    data, found, partial = file.read_bytes(), [], b""
    assert data[:4] == b":W&B"
    at = 7
    while len(data) - at >= 7:
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        partial += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            found.append(RECORDS.Record.FromString(partial))
            partial = b""
    return found


def wandb_rows(folder: Path) -> tuple[set[str], list[dict[str, Any]]]:
    """Return the ids of the runs in a folder's .wandb files, and the rows of their history."""
    identities, rows = set(), []
    for file in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"), key=lambda f: f.stat().st_mtime):
        for record in records(file):
            if record.HasField("run"):
                identities.add(record.run.run_id)
                assert record.run.project == "twinlm"
                assert record.run.display_name == folder.name
            if record.HasField("history"):
                items = record.history.item
                row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
                rows.append(row)
    return identities, rows


def assert_wandb_holds(folder: Path) -> None:
    identities, rows = wandb_rows(folder)
    assert len(identities) == 1
    steps = [row["_step"] for row in rows]
    assert steps == sorted(set(steps))
    for key in KEYS:
        assert [(row["_step"], row[key]) for row in rows if key in row] == expected(folder, key)


def test_curves_of_a_run_that_stops_and_resumes(pipeline: Path, capsys: Capture) -> None:
    folder = pipeline / "new"
    flags: tuple[object, ...] = (
        "--track",
        "tensorboard",
        "wandb",
        "--sample-every",
        2,
        "--sample-prompt",
        "Once",
    )
    # A cosine would grow longer with the run, and repeat other numbers.
    flags += ("--optimizer.schedule", "constant")
    command = train_command(pipeline, "torch", folder, *flags)
    assert lm(*command) == 0
    assert_tensorboard_holds(folder)
    assert_wandb_holds(folder)
    samples = events(folder).Tensors("sample")
    told = [(e.step, e.tensor_proto.string_val[0].decode()) for e in samples]
    assert told == expected(folder, "sample")
    assert [(r["_step"], r["sample"]) for r in wandb_rows(folder)[1] if "sample" in r] == told
    assert b'"d_model": 16' in events(folder).Tensors("run")[0].tensor_proto.string_val[0]
    # Steps 4 to 6 come again, with the same numbers, and two more.
    shutil.rmtree(folder / "checkpoints" / "step-00000006")
    assert lm(*command, "--resume", "--steps", 8) == 0
    assert [step for step, _ in expected(folder, "train_loss")] == [*range(1, 9)]
    assert_tensorboard_holds(folder)
    assert_wandb_holds(folder)
    assert "warning" not in capsys.readouterr().err


def test_a_run_is_copied_later(pipeline: Path, capsys: Capture) -> None:
    # Twice: nothing is doubled.
    for _ in range(2):
        assert lm("track", pipeline / "jax", "--to", "tensorboard", "wandb") == 0
        assert_tensorboard_holds(pipeline / "jax")
        assert_wandb_holds(pipeline / "jax")
    assert "holds no run.json" in refused(capsys, "track", pipeline / "tokenizer")
    shutil.rmtree(pipeline / "torch" / "checkpoints")
    (pipeline / "torch" / "tensorboard").write_text("in the way")
    assert "tensorboard failed" in refused(capsys, "track", pipeline / "torch")


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_a_tracker_that_fails_does_not_stop_training(
    pipeline: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    target = {
        "tensorboard": "tensorboard.summary.writer.record_writer.RecordWriter.flush",
        "wandb": "wandb.sdk.wandb_run.Run.log",
    }
    monkeypatch.setattr(target[tracker], fails)
    assert lm(*train_command(pipeline, "torch", pipeline / "new", "--track", tracker)) == 0
    assert leaves(pipeline / "new") == leaves(pipeline / "torch")
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert (
        f"{tracker} failed ([Errno 28] No space left on device); {pipeline}/new/metrics.jsonl" in warnings[0]
    )


def test_without_the_extra_it_is_named(
    pipeline: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    line = refused(capsys, *train_command(pipeline, "torch", pipeline / "new", "--track", "wandb"))
    assert "wandb is not installed: install it with pip install 'twinlm[track]'" in line
    assert not (pipeline / "new").exists()
    with pytest.raises(InputError, match="tensorboard is not installed"):
        export("tensorboard", pipeline / "torch")


def test_wandbs_own_variables_go_before_and_no_framework_is_loaded(pipeline: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lm.run.track import export\n"
        f"for name in ('tensorboard', 'wandb'): export(name, Path({str(pipeline / 'torch')!r}))\n"
        "assert not {'torch', 'jax', 'tensorflow'} & sys.modules.keys()"
    )
    variables = {"WANDB_DIR": str(tmp_path), "WANDB_PROJECT": "mine", "WANDB_NAME": "this one"}
    subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | variables, check=True, timeout=120
    )
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    (facts,) = [record.run for record in records(file) if record.HasField("run")][:1]
    assert (facts.project, facts.display_name) == ("mine", "this one")


def test_a_kill_neither_loses_nor_doubles_a_row(pipeline: Path) -> None:
    folder = pipeline / "new"
    flags = ("--steps", 40, "--save-interval", 5, "--keep-last", 1, "--eval-interval", 20)
    words = train_command(pipeline, "torch", folder, "--track", "tensorboard", "wandb", *flags)
    process = Process("lm", *words)
    with processes(process):
        wait_for(folder / "checkpoints" / "step-00000010", process)
    assert 10 <= read_metrics(folder)[-1]["step"] < 40
    assert lm(*words, "--resume") == 0
    assert_tensorboard_holds(folder)
    assert_wandb_holds(folder)
