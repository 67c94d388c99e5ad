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
    """Train a model in torch or in JAX.

    Every setting of the config file has a flag that overrides it.
    """

    backend: Backend
    """Framework to train with."""
    train: tuple[Path, ...]
    """Token files to train on, as one corpus: from lm tokenizer encode, globs such as 'stories/*.npy', or .bin files of
    nanoGPT."""
    val: Path
    """Token file to evaluate on."""
    out: Path
    """Folder to create for the run."""
    settings: Annotated[TrainConfig, arg(name="")]
    config: Path | None = None
    """TOML file of settings, such as those in configs/. If not given: the flags give the settings."""
    weights: tuple[float, ...] = ()
    """Share of the training windows from each file of --train. If not given: in proportion to the sizes."""
    init_from: Path | None = None
    """Run or checkpoint to take the initial weights from (fine-tuning). If not given: draw them from the seed."""
    tokenizer: Path | None = None
    """Folder of the tokenizer, for token files that do not name theirs, such as nanoGPT's."""
    resume: bool = False
    """Resume from the newest intact checkpoint in --out. The rest of the command stays as it was."""
    profile: bool = False
    """Write the framework's trace of a few steps to OUT/profile."""
    track: tuple[TrackerName, ...] = ()
    """Trackers to copy the metrics to: tensorboard writes OUT/tensorboard, wandb follows the WANDB_ variables."""
    mesh: str | None = None
    """Mesh of devices to train on, such as data=2,fsdp=2,tensor=2: copies of the model that share a batch, devices that
    share a copy's weights, and devices that share its heads. An axis left out is 1. If not given: one device."""

    def run(self) -> None:
        from lm.mesh import Mesh
        from lm.run import checkpoint
        from lm.run.inputs import Inputs
        from lm.run.train import train

        inputs = Inputs(self.train, self.val, self.weights, self.init_from, self.tokenizer)
        mesh = None if self.mesh is None else Mesh.parse(self.mesh)
        options = self.resume, self.profile, self.track, mesh
        done = train(self.settings, self.backend, inputs, self.out, *options)
        if done:
            show(f"{checkpoint.latest(self.out)}: done")
        elif done is False:
            command = shlex.join([a for a in sys.argv[1:] if a != "--resume"])
            show(f"stopped and saved; to resume: lm {command} --resume")


def train_defaults(arguments: Sequence[str]) -> Any:
    """Return the defaults of `lm train`: the settings of its --config, if there is one."""
    settings = given_config(arguments)
    return MISSING_NONPROP if settings is None else Train(MISSING, MISSING, MISSING, MISSING, settings)


def given_config(arguments: Sequence[str], default: Path | None = None) -> TrainConfig | None:
    """Read the settings of --config, or of the default file. Sizes that follow from others stay open for flags."""
    words = [word for a in arguments for word in (a.split("=", 1) if a.startswith("--config=") else [a])]
    path = default
    if "--config" in words[:-1]:
        path = Path(words[len(words) - words[::-1].index("--config")])
    if path is None:
        return None
    settings = load_config(path)
    return dataclasses.replace(settings, model=leave_derived_open(settings.model))
