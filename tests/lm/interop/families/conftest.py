"""Models of transformers, and what `lm import` makes of them."""

import contextlib
import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from safetensors.numpy import load_file, save_file

from lm.config import TrainConfig
from lm.run import checkpoint
from lm.run.facts import load_facts
from tests.lm.conftest import lm
from tests.lm.interop.families.models import IDS, in_dtype, make
from tests.lm.interop.families.numbers import Numbers, Weights, theirs


class Imported(NamedTuple):
    """A model of transformers, and our import of it."""

    model: Any
    """Of transformers, in float32."""
    folder: Path
    """What transformers saved."""
    run: Path
    """What `lm import` made of it."""
    config: TrainConfig
    weights: Weights
    truth: Numbers
    """What transformers computes of `IDS` in float64. The gradients carry our names."""


def read_weights(run: Path) -> tuple[TrainConfig, Weights]:
    """Return the config and the weights of a run."""
    path = checkpoint.latest(run)
    return load_facts(path)[0], load_file(path / "model.safetensors")


def import_gradients(folder: Path, gradients: Weights, work: Path) -> Weights:
    """Import gradients in the place of the weights. The map from their weights to ours only moves numbers."""
    work.mkdir()
    (work / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file(gradients, work / "model.safetensors")
    assert lm("import", "--format", "hf", work, work / "run") == 0
    return read_weights(work / "run")[1]


@pytest.fixture(scope="package")
def imported(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Imported]:
    """Return a function that makes a family's model, saves it and imports it, once for all tests."""

    @cache
    def imported(case: str, outliers: bool = False) -> Imported:
        folder = tmp_path_factory.mktemp(case.replace(" ", "-"))
        model = make(transformers, case, outliers)
        model.save_pretrained(folder / "hf")
        with contextlib.redirect_stdout(io.StringIO()):
            assert lm("import", "--format", "hf", folder / "hf", folder / "run") == 0
            truth = theirs(in_dtype(transformers, model, "float64"), IDS)
            gradients = import_gradients(folder / "hf", truth.gradients, folder / "gradients")
        config, weights = read_weights(folder / "run")
        truth = truth._replace(gradients=gradients)
        return Imported(model, folder / "hf", folder / "run", config, weights, truth)

    return imported
