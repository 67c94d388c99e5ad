"""The commands that show runs: `lm runs`, `lm report`, `lm track`."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from lm.config import TrackerName
from lm.terminal import show
from tokenizer.errors import InputError


@dataclass(frozen=True)
class Runs:
    """List the runs in a folder, with their state and last numbers."""

    folder: Positional[Path] = Path("runs")
    """Folder to search for runs, at any depth."""

    def run(self) -> None:
        from lm.run.report import list_runs

        print(list_runs(self.folder))


@dataclass(frozen=True)
class Report:
    """Compare runs on one HTML page: curves, numbers, samples.

    The page needs no network.
    """

    runs: Positional[tuple[Path, ...]]
    """Folders of the runs to compare."""
    out: Path = Path("report.html")
    """HTML file to write."""

    def run(self) -> None:
        from lm.run.report import write_report

        if not self.runs:
            raise InputError("no run is given: lm report RUN [RUN ...]")
        write_report(list(self.runs), self.out)
        show(f"{self.out}: {len(self.runs)} runs; open it in a browser")


@dataclass(frozen=True)
class Track:
    """Copy a run's metrics to TensorBoard or Weights & Biases.

    lm train --track copies them during training.
    """

    folder: Positional[Path]
    """Folder of the run."""
    to: tuple[TrackerName, ...] = ("tensorboard",)
    """Trackers to copy to: tensorboard writes RUN/tensorboard, wandb follows the WANDB_ variables."""

    def run(self) -> None:
        from lm.run.track import export

        for name in self.to:
            export(name, self.folder)
            show(f"{self.folder}: copied to {name}")
