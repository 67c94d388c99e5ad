"""The training loop: runs learn, agree between backends, stop, and resume."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm.backend import BackendName, load
from lm.cli import main
from lm.config import ModelConfig, OptimizerConfig, TrainConfig, load_config
from lm.data.batch import Batch
from lm.data.token_files import open_tokens
from lm.mesh import Mesh
from lm.run import checkpoint
from lm.run.evaluate import evaluate
from lm.run.facts import load_facts
from lm.run.inputs import Inputs
from lm.run.loading import load_state, load_tokenizer
from lm.run.metrics import read_metrics
from lm.run.train import train
from lm.schedule import learning_rate
from tests.lm.conftest import lm, train_command
from tokenizer import InputError

BACKENDS: tuple[BackendName, ...] = ("torch", "jax")


def leaves(folder: Path) -> dict[str, bytes]:
    """Return the bytes of the newest checkpoint's arrays."""
    path = checkpoint.latest(folder)
    return {name: (path / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")}


def numbers(folder: Path) -> list[dict[str, Any]]:
    """Return metrics.jsonl without the times."""
    return [{key: m[key] for key in m if key != "seconds"} for m in read_metrics(folder)]


def test_both_backends_learn_the_same(made_pipeline: Path) -> None:
    torch, jax = (numbers(made_pipeline / name) for name in BACKENDS)
    losses = [m["train_loss"] for m in torch if "train_loss" in m]
    assert losses[0] == pytest.approx(np.log(300), rel=0.1)
    assert losses[-1] < losses[0] - 0.2
    assert [m["step"] for m in torch] == [1, 2, 3, 3, 4, 5, 6, 6]
    for a, b in zip(torch, jax, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_a_run_is_complete_in_itself(made_pipeline: Path) -> None:
    folder = made_pipeline / "torch"
    assert {p.name for p in folder.iterdir()} == {"run.json", "tokenizer", "metrics.jsonl", "checkpoints"}
    assert [p.name for p in sorted((folder / "checkpoints").iterdir())] == ["step-00000003", "step-00000006"]
    config, facts = load_facts(checkpoint.latest(folder))
    assert config == load_config(made_pipeline / "tiny.toml")
    assert facts["tokens_seen"] == 6 * 4 * 16
    assert facts["backend"] == "torch"
    assert {"twinlm", "python", "numpy", "torch"} <= facts["versions"].keys()
    assert facts["tokenizer_sha256"] == load_tokenizer(folder).sha256


@pytest.mark.parametrize("backend", BACKENDS)
def test_stopping_and_resuming_changes_no_bit(pipeline: Path, backend: BackendName) -> None:
    whole, stopped = pipeline / backend, pipeline / "stopped"
    # As if killed after step 5: what came after the checkpoint of step 3 is lost, its metrics are not.
    assert lm(*train_command(pipeline, backend, stopped)) == 0
    shutil.rmtree(stopped / "checkpoints" / "step-00000006")
    assert lm(*train_command(pipeline, backend, stopped, "--resume")) == 0
    assert leaves(stopped) == leaves(whole)
    assert numbers(stopped) == numbers(whole)


@pytest.mark.usefixtures("hangup_is_noticed")
@pytest.mark.parametrize(
    "number", [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
)
def test_a_signal_saves_and_says_how_to_resume(
    pipeline: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    out = pipeline / "stopped"
    command = [str(word) for word in train_command(pipeline, "torch", out)]

    # The signal comes in the middle of the second step.
    def learning_rate_and_signal(step: int, steps: int, optimizer: OptimizerConfig) -> float:
        if step == 1:
            os.kill(os.getpid(), number)
        return learning_rate(step, steps, optimizer)

    monkeypatch.setattr("lm.run.train.learning_rate", learning_rate_and_signal)
    monkeypatch.setattr("sys.argv", ["lm", *command])
    handler = signal.getsignal(number)
    assert main(command) == 0
    assert signal.getsignal(number) is handler
    assert checkpoint.latest(out).name == "step-00000002"
    assert capsys.readouterr().out == f"stopped and saved; to resume: lm {' '.join(command)} --resume\n"
    monkeypatch.setattr("lm.run.train.learning_rate", learning_rate)
    assert main([*command, "--resume"]) == 0
    assert leaves(out) == leaves(pipeline / "torch")


@pytest.mark.parametrize("first", BACKENDS)
def test_the_other_backend_resumes(pipeline: Path, first: BackendName) -> None:
    second = BACKENDS[1 - BACKENDS.index(first)]
    folder = pipeline / first
    shutil.rmtree(folder / "checkpoints" / "step-00000006")
    assert lm(*train_command(pipeline, second, folder, "--resume")) == 0
    for a, b in zip(numbers(folder), numbers(pipeline / second), strict=True):
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_a_checkpoint_crosses_backends_bit_for_bit(made_pipeline: Path, backend_name: BackendName) -> None:
    for writer in BACKENDS:
        path = checkpoint.latest(made_pipeline / writer)
        config, _ = load_facts(path)
        backend = load(backend_name, config)
        state = load_state(path, config, backend, with_optimizer=True)
        again = checkpoint.save(
            made_pipeline / f"again-{writer}-{backend_name}",
            6,
            backend.read_weights(state),
            backend.read_optimizer(state),
            {},
        )
        assert leaves(again) == leaves(path)


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_micro_batches_make_the_same_step(made_pipeline: Path, backend_name: BackendName) -> None:
    config = load_config(made_pipeline / "tiny.toml")
    config = dataclasses.replace(config, compute_dtype="float64")
    ids = np.random.default_rng(0).integers(0, 300, (4, 17)).astype(np.int32)
    backend = load(backend_name, config)
    step = backend.make_train_step(config)
    weights = []
    for micro in (1, 2, 4):
        windows = ids.reshape(micro, -1, 17)
        state, metrics = step(backend.init_state(config, 0), Batch(windows[..., :-1], windows[..., 1:]), 1e-2)
        assert float(metrics["loss"]) == pytest.approx(5.7, abs=0.5)
        weights.append(np.concatenate([w.ravel() for _, w in backend.read_weights(state)]).copy())
    for other in weights[1:]:
        np.testing.assert_allclose(other, weights[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_a_masked_position_counts_for_nothing(made_pipeline: Path, backend_name: BackendName) -> None:
    config = load_config(made_pipeline / "tiny.toml")
    config = dataclasses.replace(config, compute_dtype="float64", z_loss=0.1)
    windows = np.random.default_rng(0).integers(0, 300, (1, 4, 17)).astype(np.int32)
    mask = np.ones((1, 4, 16), bool)
    mask[0, 1:, 5:] = False
    other = windows.copy()
    other[0, 1:, 6:] = 7
    backend = load(backend_name, config)
    step, eval_step = backend.make_train_step(config), backend.make_eval_step(config)
    results = []
    for w in (windows, other):
        batch = Batch(w[..., :-1], w[..., 1:], mask)
        evaluated = eval_step(backend.init_state(config, 0), batch)
        state, _ = step(backend.init_state(config, 0), batch, 1e-2)
        results.append((evaluated, [w.copy() for _, w in backend.read_weights(state)]))
    assert results[0][0] == results[1][0]
    assert results[0][0][1] == mask.sum()
    for a, b in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("options", [{}, {"kind": "muon", "average_decay": 0.6}], ids=["adamw", "muon"])
@pytest.mark.parametrize("backend_name", BACKENDS)
def test_a_step_that_is_not_finite_changes_nothing(
    made_pipeline: Path, backend_name: BackendName, options: dict[str, Any]
) -> None:
    config = load_config(made_pipeline / "tiny.toml")
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, **options))
    backend = load(backend_name, config)
    state = backend.init_state(config, 0)
    weights = {name: array.copy() for name, array in backend.read_weights(state)}
    weights["ln_final.weight"] = np.full(16, np.inf, np.float32)
    optimizer = {name: array.copy() for name, array in backend.read_optimizer(state)}
    state = backend.load_state(config, weights.items(), optimizer.items())
    ids = np.zeros((1, 4, 16), np.int32)
    state, metrics = backend.make_train_step(config)(state, Batch(ids, ids), 1e-2)
    assert not bool(metrics["finite"])
    averages = {name: optimizer.get(f"average.{name}", array) for name, array in weights.items()}
    with backend.averaged(state) as evaluated:
        np.testing.assert_equal(dict(backend.read_weights(evaluated)), averages)
    np.testing.assert_equal(dict(backend.read_weights(state)), weights)
    np.testing.assert_equal(dict(backend.read_optimizer(state)), optimizer)


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_ids_out_of_range_never_reach_a_kernel(made_pipeline: Path, backend_name: BackendName) -> None:
    config = load_config(made_pipeline / "tiny.toml")
    backend = load(backend_name, config)
    state = backend.init_state(config, 0)
    good, bad = np.zeros((1, 4, 16), np.int32), np.full((1, 4, 16), 300, np.int32)
    for batch in (Batch(good, bad), Batch(bad, good), Batch(good, good - 1)):
        with pytest.raises(InputError, match=r"outside 0 \.\. 299"):
            backend.make_train_step(config)(state, batch, 1e-2)
        with pytest.raises(InputError, match=r"outside 0 \.\. 299"):
            backend.make_eval_step(config)(state, batch)
    with pytest.raises(InputError, match=r"outside 0 \.\. 299"):
        backend.make_prefill(config)(state, bad[0], np.full(4, 16))


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_the_validation_loss_does_not_depend_on_the_batch_size(
    made_pipeline: Path, backend_name: BackendName
) -> None:
    config = dataclasses.replace(load_config(made_pipeline / "tiny.toml"), compute_dtype="float64")
    tokens = open_tokens(made_pipeline / "val.npy", 300, 16)[:150]
    backend = load(backend_name, config)
    state = backend.init_state(config, 0)
    results = []
    for batch_size in (1, 4, 7, 1000):
        sized = dataclasses.replace(config, batch_size=batch_size)
        eval_step = backend.make_eval_step(sized)
        results.append(evaluate(eval_step, state, tokens, sized))
        results.append(evaluate(eval_step, state, tokens, sized, batch_size=3))
    assert {r.num_targets for r in results} == {149}
    assert [r.loss for r in results] == pytest.approx([results[0].loss] * len(results), rel=1e-12)
    assert len({r.accuracy for r in results}) == 1


@pytest.mark.parametrize("architecture", ["decoder", "encoder"])
@pytest.mark.parametrize(
    ("vocab_size", "num_tokens", "batch_size", "mesh", "rows"),
    [
        (300, 16 * 10 + 1, None, None, [10]),  # not 32: 22 of them would be empty
        (300, 16 * 33 + 1, None, None, [17, 17]),  # one shape, for one compilation
        (32_000, 16 * 64 + 1, None, None, [32, 32]),
        (320_000, 16 * 9 + 1, None, None, [3, 3, 3]),  # 20 MB of logits a window
        (10**7, 40, None, None, [1, 1, 1]),
        (320_000, 16 * 9 + 1, 9, None, [9]),  # as the user wants it
        (300, 16 * 10 + 1, 3, None, [3, 3, 3, 3]),
        (320_000, 16 * 9 + 1, None, Mesh(data=4), [12]),
        (300, 17, None, Mesh(data=2, fsdp=2), [4]),
    ],
)
def test_evaluation_computes_no_more_at_once_than_fits(
    architecture: Any,
    vocab_size: int,
    num_tokens: int,
    batch_size: int | None,
    mesh: Mesh | None,
    rows: list[int],
) -> None:
    model = ModelConfig(vocab_size, 16, 16, 1, 2, architecture=architecture)
    config = TrainConfig(model, mask_token=0 if architecture == "encoder" else None)
    shapes = []

    def eval_step(state: object, batch: Batch) -> tuple[float, int, int]:
        shapes.append(batch.inputs.shape)
        return 1.0, batch.num_targets, 0

    tokens = np.ones(num_tokens - (architecture == "encoder"), np.uint16)
    evaluate(eval_step, None, tokens, config, batch_size, mesh)
    assert shapes == [(1, count, 16) for count in rows]


def test_a_diverging_run_stops_with_the_step(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(pipeline / "tiny.toml")
    monkeypatch.setattr("lm.run.train.learning_rate", lambda *_: 1e30)
    inputs = Inputs((pipeline / "train.npy",), pipeline / "val.npy")
    with pytest.raises(
        InputError, match=r"step \d: the loss is nan .*train.npy\[\d+\], .* lower optimizer.learning"
    ):
        train(config, "torch", inputs, pipeline / "diverging")


def test_a_log_line_is_json(made_pipeline: Path) -> None:
    for line in (made_pipeline / "jax" / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert {"step", "tokens", "seconds"} < record.keys()
        assert record["tokens"] == record["step"] * 4 * 16
