"""Features of a run: decay, evaluation, early stopping, bad steps, fine-tuning, samples, traces."""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from lm.backend import BackendName, load
from lm.config import ModelConfig, load_config
from lm.data.batch import Batch
from lm.files import discard
from lm.flops import train_flops_per_token
from lm.init import optimizer_shapes, parameter_shapes
from lm.run import checkpoint
from lm.run.facts import load_facts, read_facts
from lm.run.leaves import read_leaves
from lm.run.metrics import read_metrics
from tests.lm.conftest import lm, refused, train_command
from tests.lm.run.test_train import BACKENDS, leaves, numbers
from tokenizer import Tokenizer
from tokenizer.machine import peak_memory

Capture = pytest.CaptureFixture[str]
QUIET = ("--steps", 4, "--save-interval", 100, "--eval-interval", 100)


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_gains_do_not_decay_with_the_matrices(made_pipeline: Path, backend_name: BackendName) -> None:
    config = load_config(made_pipeline / "tiny.toml")
    ids = np.random.default_rng(0).integers(0, 300, (1, 4, 17)).astype(np.int32)
    backend = load(backend_name, config)
    weights = {}
    cases: tuple[tuple[str, Literal["all", "matrices"], float], ...] = (
        ("none", "all", 0.0),
        ("matrices", "matrices", 10.0),
    )
    for name, decay, amount in cases:
        optimizer = dataclasses.replace(config.optimizer, weight_decay=amount, decay=decay)
        c = dataclasses.replace(config, optimizer=optimizer)
        state, _ = backend.make_train_step(c)(
            backend.init_state(c, 0), Batch(ids[..., :-1], ids[..., 1:]), 0.01
        )
        weights[name] = {n: w.copy() for n, w in backend.read_weights(state)}
    for name, undecayed in weights["none"].items():
        if undecayed.ndim == 1:
            np.testing.assert_array_equal(weights["matrices"][name], undecayed)
        else:
            np.testing.assert_allclose(weights["matrices"][name], 0.9 * undecayed, rtol=1e-5)


def test_evaluation_of_the_first_windows(pipeline: Path) -> None:
    command = train_command(pipeline, "torch", pipeline / "new", *QUIET, "--eval-windows", 3)
    assert lm(*command) == 0
    (val,) = [m for m in read_metrics(pipeline / "new") if "val_loss" in m]
    tokens = np.load(pipeline / "val.npy")
    np.save(pipeline / "short.npy", tokens[: 3 * 16 + 1])
    command = train_command(pipeline, "torch", pipeline / "short", *QUIET, "--val", pipeline / "short.npy")
    assert lm(*command) == 0
    (short,) = [m for m in read_metrics(pipeline / "short") if "val_loss" in m]
    assert val["val_loss"] == short["val_loss"]
    assert val["perplexity"] == math.exp(val["val_loss"])
    # Bits per byte are of the same windows; what the whole text's floor is, says nothing about them.
    text = Tokenizer.load(pipeline / "tokenizer").decode(tokens[: 3 * 16 + 1])
    bits = val["val_loss"] / math.log(2) * (3 * 16 + 1) / len(text.encode())
    assert val["bits_per_byte"] == pytest.approx(bits, rel=1e-12)
    assert (read_facts(pipeline / "new") or {})["floor"] is None
    assert "bits_per_byte" not in short


def test_patience_ends_a_run_that_no_longer_learns(pipeline: Path, capsys: Capture) -> None:
    # At this rate it soon gets worse.
    flags: tuple[object, ...] = (
        "--steps",
        40,
        "--eval-interval",
        1,
        "--patience",
        3,
        "--optimizer.learning-rate",
        3.0,
    )
    flags += ("--keep-last", 1)
    command = train_command(pipeline, "torch", pipeline / "new", *flags, "--save-interval", 100)
    assert lm(*command) == 0
    assert "stopped early" in capsys.readouterr().err
    losses = [m["val_loss"] for m in read_metrics(pipeline / "new") if "val_loss" in m]
    best = int(np.argmin(losses))
    assert len(losses) < 40
    assert best == len(losses) - 4
    assert checkpoint.best(pipeline / "new").name == f"step-{best + 1:08d}"
    assert lm("eval", "--best", "--checkpoint", pipeline / "new", "--tokens", pipeline / "val.npy") == 0
    assert f"{losses[best]:.4f} nats" in capsys.readouterr().out
    # A resumed run does not train on either, unless it is given more patience.
    before = leaves(pipeline / "new")
    assert lm(*command, "--resume") == 0
    assert leaves(pipeline / "new") == before
    assert lm(*command, "--resume", "--patience", 4) == 0
    assert leaves(pipeline / "new") != before


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_that_is_not_finite(pipeline: Path, capsys: Capture, backend: BackendName) -> None:
    # Weights that overflow in the forward pass make every step bad from the first on.
    start = pipeline / backend / "checkpoints" / "step-00000003"
    _, facts = load_facts(start)
    weights, moments = (
        {name: leaf[...] for name, leaf in read_leaves(start / f"{file}.safetensors", of)}
        for file, of in (("model", shapes(start)), ("optimizer", shapes(start, optimizer=True)))
    )
    weights["ln_final.weight"] = np.full(16, np.inf, np.float32)
    discard(pipeline / backend / "checkpoints" / "step-00000006")
    del facts["format_version"], facts["iteration"]
    checkpoint.save(pipeline / backend / "checkpoints", 3, weights.items(), moments.items(), facts)
    command = train_command(
        pipeline, backend, pipeline / backend, "--resume", "--steps", 8, "--eval-interval", 100
    )
    line = refused(capsys, *command)
    assert "step 4: the loss is nan" in line
    assert "train.npy[" in line
    path = checkpoint.latest(pipeline / backend)
    assert path.name == "step-00000005"
    assert (path / "model.safetensors").read_bytes() == (start / "model.safetensors").read_bytes()
    assert checkpoint.read_state(path)["skipped"] == 2
    assert lm(*command, "--skip-nonfinite") == 0
    assert checkpoint.read_state(checkpoint.latest(pipeline / backend))["skipped"] == 5
    records = [m for m in read_metrics(pipeline / backend) if m["step"] > 3 and "train_loss" in m]
    assert [m["step"] for m in records] == [4, 5, 6, 7, 8]
    assert all(m["train_loss"] is None and m["skipped"] for m in records)


def shapes(path: Path, optimizer: bool = False) -> dict[str, Any]:
    config, _ = load_facts(path)
    if optimizer:
        names = optimizer_shapes(config.model)
        return {name: (s, "int32" if name == "step" else "float32") for name, s in names.items()}
    return {name: (s, "float32") for name, s in parameter_shapes(config.model).items()}


@pytest.mark.parametrize("backend", BACKENDS)
def test_fine_tuning_starts_from_the_weights_of_another_run(
    pipeline: Path, capsys: Capture, backend: BackendName
) -> None:
    other = pipeline / ("jax" if backend == "torch" else "torch")
    flags: tuple[object, ...] = ("--init-from", other, "--steps", 1, "--optimizer.learning-rate", 1e-30)
    flags += ("--optimizer.min-learning-rate", 0)
    assert lm(*train_command(pipeline, backend, pipeline / "tuned", *flags)) == 0
    ours, theirs = (leaves(folder)["model.safetensors"] for folder in (pipeline / "tuned", other))
    assert ours == theirs
    assert leaves(pipeline / "tuned")["optimizer.safetensors"] != leaves(other)["optimizer.safetensors"]
    line = refused(capsys, *train_command(pipeline, backend, pipeline / "no", *flags, "--model.d-model", 32))
    assert "'token_embeddings.weight' is float32 (300, 16), and this model has float32 (300, 32)" in line
    assert not (pipeline / "no").exists()


@pytest.mark.parametrize("backend", BACKENDS)
def test_samples_are_written_as_training_goes_and_change_nothing(
    pipeline: Path, backend: BackendName
) -> None:
    flags = ("--sample-every", 2, "--sample-prompt", "Once")
    assert lm(*train_command(pipeline, backend, pipeline / "new", *flags)) == 0
    records = numbers(pipeline / "new")
    samples = [m for m in records if "sample" in m]
    assert [m["step"] for m in samples] == [2, 4, 6]
    assert all(m["sample"].startswith("Once") and len(m["sample"]) > 8 for m in samples)
    assert [m for m in records if "sample" not in m] == numbers(pipeline / backend)
    assert leaves(pipeline / "new") == leaves(pipeline / backend)


def test_samples_need_a_tokenizer(pipeline: Path, capsys: Capture) -> None:
    (pipeline / "train.npy.json").unlink()
    command = train_command(pipeline, "torch", pipeline / "new", "--sample-every", 2)
    assert "sample_every needs a tokenizer" in refused(capsys, *command)


@pytest.mark.parametrize(("backend", "pattern"), [("torch", "trace.json"), ("jax", "**/*.xplane.pb")])
def test_a_profile_is_the_frameworks_own_trace(pipeline: Path, backend: BackendName, pattern: str) -> None:
    assert lm(*train_command(pipeline, backend, pipeline / "new", "--profile")) == 0
    (trace,) = (pipeline / "new" / "profile").glob(pattern)
    assert trace.stat().st_size > 1000
    assert leaves(pipeline / "new") == leaves(pipeline / backend)
    written = trace.stat().st_mtime_ns
    # And again when the run resumes.
    command = train_command(pipeline, backend, pipeline / "new", "--profile", "--resume", "--steps", 10)
    assert lm(*command) == 0
    assert max(p.stat().st_mtime_ns for p in (pipeline / "new" / "profile").glob(pattern)) > written


def test_bfloat16_learns_within_one_percent(pipeline: Path) -> None:
    losses = {}
    for dtype in ("float32", "bfloat16"):
        out = pipeline / dtype
        flags = (
            "--steps",
            60,
            "--eval-interval",
            100,
            "--compute-dtype",
            dtype,
            "--optimizer.learning-rate",
            0.01,
        )
        assert lm(*train_command(pipeline, "torch", out, *flags)) == 0
        losses[dtype] = read_metrics(out)[-1]["val_loss"]
        config, _ = load_facts(checkpoint.latest(out))
        assert config.param_dtype == "float32"
    assert losses["float32"] < 5.0
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.01)


def test_flops_by_hand() -> None:
    model = ModelConfig(100, 16, 8, 2, 1, d_ff=24)
    assert train_flops_per_token(model) == 6 * (2 * (4 * 64 + 3 * 8 * 24) + 800) + 12 * 2 * 16 * 8
    assert 10**6 < peak_memory() < 10**11


def test_the_lines_of_a_run_that_nobody_watches(pipeline: Path, capsys: Capture) -> None:
    assert lm(*train_command(pipeline, "torch", pipeline / "new", "--peak-flops", 1e12)) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("new: step 3 of 6: loss ")
    for word in ("val ", "gap ", "lr ", "norm ", "tok/s ", "MFU ", " left"):
        assert word in lines[0]
