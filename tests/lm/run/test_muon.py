"""Runs with Muon: they resume bitwise, cross backends, and leave everything alone in a step that is not finite."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lm.backend import BackendName, load
from lm.config import load_config
from lm.data.batch import Batch
from lm.init import muon_names, optimizer_shapes
from lm.run import checkpoint
from lm.run.facts import load_facts
from lm.run.loading import load_state
from tests.lm.conftest import lm, train_command
from tests.lm.run.test_train import BACKENDS, leaves, numbers

MUON = ("--optimizer.kind", "muon", "--optimizer.muon-scale", "match_rms_adamw")


@pytest.mark.parametrize("first", BACKENDS)
def test_a_run_resumes_bitwise_and_in_the_other_backend(pipeline: Path, first: BackendName) -> None:
    whole, stopped, crossed = (pipeline / name for name in ("whole", "stopped", "crossed"))
    assert lm(*train_command(pipeline, first, whole, *MUON)) == 0
    shutil.copytree(whole, stopped)
    shutil.rmtree(stopped / "checkpoints" / "step-00000006")
    shutil.copytree(stopped, crossed)
    assert lm(*train_command(pipeline, first, stopped, *MUON, "--resume")) == 0
    assert leaves(stopped) == leaves(whole)
    second = BACKENDS[1 - BACKENDS.index(first)]
    assert lm(*train_command(pipeline, second, crossed, *MUON, "--resume")) == 0
    for a, b in zip(numbers(crossed), numbers(whole), strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    path = checkpoint.latest(whole)
    config, _ = load_facts(path)
    saved = load_file(path / "optimizer.safetensors")
    assert {name: x.shape for name, x in saved.items()} == optimizer_shapes(config.model, config.optimizer)
    assert not any(f"v.{name}" in saved for name in muon_names(config.model, config.optimizer))
    backend = load(second, config)
    state = load_state(path, config, backend, with_optimizer=True)
    for name, array in backend.read_optimizer(state):
        np.testing.assert_array_equal(array, saved[name])


def test_a_checkpoint_of_another_optimizer_is_not_resumed(
    pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lm(*train_command(pipeline, "torch", pipeline / "torch", *MUON, "--resume")) == 2
    assert "optimizer.kind is 'adamw' in this run and 'muon'" in capsys.readouterr().err


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_a_step_that_is_not_finite_changes_nothing(made_pipeline: Path, backend_name: BackendName) -> None:
    config = load_config(made_pipeline / "tiny.toml")
    config = replace(config, optimizer=replace(config.optimizer, kind="muon"))
    backend = load(backend_name, config)
    state = backend.init_state(config, 0)
    weights = {name: array.copy() for name, array in backend.read_weights(state)}
    weights["ln_final.weight"] = np.full(16, np.inf, np.float32)
    moments = {name: array.copy() for name, array in backend.read_optimizer(state)}
    state = backend.load_state(config, weights.items(), moments.items())
    ids = np.zeros((1, 4, 16), np.int32)
    state, metrics = backend.make_train_step(config)(state, Batch(ids, ids), 1e-2)
    assert not bool(metrics["finite"])
    for leaves_of, before in (
        (backend.read_weights(state), weights),
        (backend.read_optimizer(state), moments),
    ):
        for name, array in leaves_of:
            np.testing.assert_array_equal(array, before[name])
