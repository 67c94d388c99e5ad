"""The command `lm experiment`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro import MISSING
from tyro.conf import Positional, arg

from lm.cli.settings import Backend, Compiles
from lm.cli.train import given_config
from lm.config import TrainConfig


@dataclass(frozen=True)
class Experiment(Compiles):
    """Train what an experiment compares, and report what came of it; the same command goes on where it was stopped."""

    name: Positional[
        Literal[
            "learning-rate",
            "batch-size",
            "no-norm",
            "post-norm",
            "no-position",
            "silu",
            "parallel",
            "generate",
            "tokenizer",
            "sgd",
            "all",
        ]
    ]
    """What to vary; all shares the corpus and the runs that several need."""
    settings: Annotated[TrainConfig, arg(name="")]
    backend: Backend = "torch"
    """Framework to train with."""
    corpus: Path | None = None
    """A text file of your own in place of the stories; its last tenth is held out."""
    out: Path | None = None
    """Folder to write; runs/experiment-NAME if not given."""
    config: Path | None = None
    """TOML file of the baseline's settings; configs/experiment.toml if not given."""
    rates: tuple[float, ...] = ()
    """Learning rates of the sweep; if not given, from 1/100 to 100 times the config's."""
    batch_sizes: tuple[int, ...] = ()
    """Batch sizes to compare; if not given, 1, 4, 16 and so on."""
    seeds: int = 3
    """How often the best of each kind is run, to tell differences from chance."""
    docs: Path | None = None
    """With all: folder whose experiments.md, and answers.md between its marks, to write anew."""

    def run(self) -> None:
        from lm.experiment import experiment
        from lm.experiment.runs import Plan

        plan = Plan(self.settings, self.backend, self.corpus, self.rates, self.batch_sizes, self.seeds)
        try:
            experiment(self.name, plan, self.out or Path("runs") / f"experiment-{self.name}", self.docs)
        except KeyboardInterrupt:
            print("\nlm: stopped; the same command goes on", file=sys.stderr)
            raise


def experiment_defaults(arguments: Sequence[str]) -> Any:
    """The defaults of `lm experiment`: the settings of its --config, or of configs/experiment.toml."""
    from lm.experiment import CONFIG

    return Experiment(MISSING, given_config(arguments, CONFIG))  # type: ignore[arg-type]
