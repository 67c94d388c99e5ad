"""The command `lm train`."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro import MISSING, MISSING_NONPROP
from tyro.conf import arg

from lm.cli.settings import Backend, Compiles, leave_derived_open
from lm.config import TrackerName, TrainConfig, load_config
from lm.terminal import show


@dataclass(frozen=True)
class Train(Compiles):
    """Train a model. Every setting of the config file can be overridden by its flag."""

    backend: Backend
    """Framework to train with."""
    train: tuple[Path, ...]
    """Token files to train on, from lm tokenizer encode, or globs such as 'stories/*.npy': one corpus. nanoGPT's .bin
    files do too."""
    val: Path
    """Token file to evaluate on."""
    out: Path
    """Folder of the run, to be made."""
    settings: Annotated[TrainConfig, arg(name="")]
    config: Path | None = None
    """TOML file of settings, such as those in configs/; without one, give the model's by flags."""
    weights: tuple[float, ...] = ()
    """Share of the training windows from each of --train; if not given, each gives windows by its size."""
    init_from: Path | None = None
    """Start from the weights of this run or checkpoint (fine-tuning), not from the seed's."""
    tokenizer: Path | None = None
    """Folder of the tokenizer of token files that do not name theirs, such as nanoGPT's."""
    resume: bool = False
    """Go on from the newest intact checkpoint in --out, with otherwise the same command."""
    profile: bool = False
    """Write the framework's own trace of a few steps to OUT/profile."""
    track: tuple[TrackerName, ...] = ()
    """Copy the metrics as they come, to OUT/tensorboard or to Weights & Biases, as its WANDB_ variables say."""
    mesh: str | None = None
    """Train on several devices, such as data=2,fsdp=2,tensor=2: copies of the model that share a batch, devices that
    share a copy's weights, and devices that share its heads. An axis left out is 1. The numbers are the same."""

    def run(self) -> None:
        from lm.mesh import Mesh
        from lm.run import checkpoint
        from lm.run.folder import Inputs
        from lm.run.train import train

        inputs = Inputs(self.train, self.val, self.weights, self.init_from, self.tokenizer)
        mesh = None if self.mesh is None else Mesh.parse(self.mesh)
        options = self.resume, self.profile, self.track, mesh
        done = train(self.settings, self.backend, inputs, self.out, *options)
        if done:
            show(f"{checkpoint.latest(self.out)}: done")
        elif done is False:
            command = shlex.join([a for a in sys.argv[1:] if a != "--resume"])
            show(f"stopped and saved; to go on: lm {command} --resume")


def train_defaults(arguments: Sequence[str]) -> Any:
    """The defaults of `lm train`: the settings of its --config, where there is one."""
    settings = given_config(arguments)
    return MISSING_NONPROP if settings is None else Train(MISSING, MISSING, MISSING, MISSING, settings)


def given_config(arguments: Sequence[str], default: Path | None = None) -> TrainConfig | None:
    """The settings of --config, or of the default file, with what follows from others left open for flags."""
    words = [word for a in arguments for word in (a.split("=", 1) if a.startswith("--config=") else [a])]
    path = default
    if "--config" in words[:-1]:
        path = Path(words[len(words) - words[::-1].index("--config")])
    if path is None:
        return None
    settings = load_config(path)
    return dataclasses.replace(settings, model=leave_derived_open(settings.model))
