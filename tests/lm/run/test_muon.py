"""Runs with Muon: they resume bitwise, cross backends, and leave everything alone in a step that is not finite."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lm.backend import BackendName, load
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
