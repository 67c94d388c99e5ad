"""The moving average of the weights: its numbers, and who uses it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import lm as twinlm
from lm.backend import BackendName
from lm.budgets import RUN, relative_error
from lm.config import load_config
from lm.init import initial_weights
from lm.run import checkpoint
from lm.run.metrics import read_metrics
from tests.lm.conftest import lm, train_command
from tests.lm.run.test_train import BACKENDS, leaves, numbers

DECAY = 0.6
AVERAGE = ("--optimizer.average-decay", DECAY, "--save-interval", 1)


def averages(path: Path) -> dict[str, np.ndarray]:
    saved = load_file(path / "optimizer.safetensors")
    return {name.removeprefix("average."): x for name, x in saved.items() if name.startswith("average.")}


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_a_run_averages_its_weights_and_uses_the_average(
    pipeline: Path, backend_name: BackendName, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, stopped, crossed, tuned = (pipeline / name for name in ("whole", "stopped", "crossed", "tuned"))
    assert lm(*train_command(pipeline, backend_name, whole, *AVERAGE)) == 0
    config = load_config(pipeline / "tiny.toml")
    expected = {name: leaf[...] for name, leaf in initial_weights(config.model, config.seed, "float64")}
    for path in sorted(checkpoint.find_all(whole)):
        for name, weight in load_file(path / "model.safetensors").items():
            expected[name] = DECAY * expected[name] + (1 - DECAY) * weight
        found = averages(path)
        assert found.keys() == expected.keys()
        for name, average in found.items():
            assert relative_error(average, expected[name]) < RUN["float32"], name

    last = checkpoint.latest(whole)
    model = twinlm.load(whole, backend_name)
    for name, weight in model.backend.read_weights(model.state):
        np.testing.assert_array_equal(weight, averages(last)[name])
    assert lm("export", "--format", "hf", whole, pipeline / "hf") == 0
    exported = load_file(pipeline / "hf" / "model.safetensors")
    np.testing.assert_array_equal(exported["model.norm.weight"], averages(last)["ln_final.weight"])
    capsys.readouterr()
    command = ("eval", "--checkpoint", whole, "--backend", backend_name, "--tokens", pipeline / "val.npy")
    assert lm(*command) == 0
    (loss,) = (m["val_loss"] for m in read_metrics(whole) if m["step"] == 6 and "val_loss" in m)
    assert f"loss           {loss:.4f} nats" in capsys.readouterr().out

    shutil.copytree(whole, stopped)
    for path in sorted(checkpoint.find_all(stopped))[-3:]:
        shutil.rmtree(path)
    shutil.copytree(stopped, crossed)
    assert lm(*train_command(pipeline, backend_name, stopped, *AVERAGE, "--resume")) == 0
    assert leaves(stopped) == leaves(whole)
    other = BACKENDS[1 - BACKENDS.index(backend_name)]
    assert lm(*train_command(pipeline, other, crossed, *AVERAGE, "--resume")) == 0
    for a, b in zip(numbers(crossed), numbers(whole), strict=True):
        assert a == pytest.approx(b, rel=1e-5)

    start = ("--init-from", whole, "--steps", 1, "--optimizer.learning-rate", 1e-30)
    assert lm(*train_command(pipeline, backend_name, tuned, *start, "--optimizer.min-learning-rate", 0)) == 0
    for name, weight in load_file(checkpoint.latest(tuned) / "model.safetensors").items():
        np.testing.assert_array_equal(weight, averages(last)[name])
