"""The command `lm experiment`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro import MISSING
from tyro.conf import Positional, arg

from lm.cli.settings import Backend, Compiles
from lm.cli.train import given_config
from lm.config import TrainConfig


@dataclass(frozen=True)
class Experiment(Compiles):
    """Run an experiment, and write its tables and plots.

    The same command continues an experiment that was stopped.
    """

    name: Positional[
        Literal[
            "learning-rate",
            "batch-size",
            "no-norm",
            "post-norm",
            "no-position",
            "silu",
            "parallel",
            "documents",
            "generate",
            "tokenizer",
            "sgd",
            "recipes",
            "optimizer",
            "scaling",
            "all",
        ]
    ]
    """Experiment to run. recipes compares options at equal training time, and optimizer AdamW with Muon. all runs the
    course's experiments, from learning-rate to sgd, and trains the runs that they share only once."""
    settings: Annotated[TrainConfig, arg(name="")]
    backend: Backend = "torch"
    """Framework to train with."""
    corpus: Path | None = None
    """Text file to train on. Its last tenth is held out for evaluation. If not given: the built-in stories."""
    out: Path | None = None
    """Folder to write. Experiments with equal settings may share a folder, and then share runs. If not given:
    runs/experiment-NAME."""
    config: Path | None = None
    """TOML file of the baseline's settings. If not given: configs/experiment.toml; for scaling:
    configs/scaling.toml."""
    rates: tuple[float, ...] = ()
    """Learning rates of the sweep. If not given: from 1/100 to 100 times the rate of the config."""
    batch_sizes: tuple[int, ...] = ()
    """Batch sizes to compare. If not given: 1, 4, 16 and so on, while memory and steps suffice."""
    seeds: int = 3
    """Number of seeds. The best run of each kind is repeated with all of them, which tells differences from chance."""
    budget: float = 1.0
    """scaling: multiple of all compute budgets."""
    points: Path | None = None
    """scaling: fit the runs of this JSON file, and train nothing. The file is a list of objects with the keys
    parameters, compute_budget and final_loss."""
    floor: float | None = None
    """scaling --points: irreducible loss E of the text, in nats per token. If not given: E is only fitted."""
    predict: tuple[float, ...] = ()
    """scaling --points: FLOPs to predict the best model for. If not given: four times the largest budget."""

    def run(self) -> None:
        if self.points is not None:
            return self._fit_points()
        from lm.experiment import experiment
        from lm.experiment.runs import Plan
        from tokenizer.errors import InputError

        for flag, given in (("floor", self.floor is not None), ("predict", self.predict)):
            if given:
                raise InputError(
                    f"{flag}: is for points of a file; give --points FILE.json too, or leave --{flag} out"
                )
        plan = Plan(
            self.settings, self.backend, self.corpus, self.rates, self.batch_sizes, self.seeds, self.budget
        )
        try:
            experiment(self.name, plan, self.out or Path("runs") / f"experiment-{self.name}")
        except KeyboardInterrupt:
            print("\nlm: stopped; the same command continues", file=sys.stderr)
            raise

    def _fit_points(self) -> None:
        from lm.experiment.scaling.file import fit_file
        from tokenizer.errors import InputError

        assert self.points is not None
        if self.name != "scaling":
            raise InputError(
                f"points: {self.name} trains its runs; give lm experiment scaling --points FILE.json"
            )
        fit_file(
            self.points, self.floor, self.predict, self.out or Path("runs") / f"scaling-{self.points.stem}"
        )


def experiment_defaults(arguments: Sequence[str]) -> Any:
    """Return the defaults of `lm experiment`: the settings of its --config, or of the experiment's own config."""
    from lm.experiment import CONFIG, SCALING_CONFIG

    # A word after a flag is the flag's value, such as that of --out.
    is_scaling = any(
        word == "scaling" and not before.startswith("--") for before, word in pairwise(("", *arguments))
    )
    config = SCALING_CONFIG if is_scaling else CONFIG
    return Experiment(MISSING, given_config(arguments, config))  # type: ignore[arg-type]
