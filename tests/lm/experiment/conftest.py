"""A tiny experiment: of two rates that train and one that does not."""

from pathlib import Path

import pytest

from tests.lm.conftest import lm

TINY = (
    *(
        "--model.vocab-size",
        300,
        "--model.context-length",
        16,
        "--model.d-model",
        16,
        "--model.num-layers",
        1,
    ),
    *("--model.num-heads", 2, "--steps", 8, "--batch-size", 4, "--eval-interval", 4, "--save-interval", 2),
    *("--eval-windows", 8, "--optimizer.warmup-steps", 2, "--seeds", 2),
)
DIVERGING = 1e4


def command(name: str, corpus: Path, out: Path, *more: object) -> tuple[object, ...]:
    """The command of a tiny experiment."""
    rates = ("--rates", 1e-3, 3e-2, DIVERGING)
    return ("experiment", name, "--corpus", corpus, "--out", out, *TINY, *rates, *more)


@pytest.fixture(scope="package")
def corpus(made_pipeline: Path) -> Path:
    """A small text."""
    return made_pipeline / "train.txt"


@pytest.fixture(scope="package")
def swept(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a learning-rate experiment. Do not change it."""
    out = tmp_path_factory.mktemp("swept") / "out"
    assert lm(*command("learning-rate", corpus, out)) == 0
    return out
