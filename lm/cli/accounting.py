"""The command `lm accounting`."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from tyro import MISSING_NONPROP
from tyro.conf import Positional, Suppress, arg

from lm.cli.settings import leave_derived_open
from lm.config import ComputeDtype, ModelConfig, OptimizerConfig, TrainConfig
from tokenizer.errors import InputError


@dataclass(frozen=True)
class Accounting:
    """Count what a model costs before it runs: FLOPs, memory, days.

    Every setting of the config, of its model and of its optimizer has a flag that overrides it.
    """

    config: Positional[str]
    """Preset (gpt2-small, gpt2-medium, gpt2-large, gpt2-xl, llama-7b, smollm2-135m, llama-3-8b, llama-3.2-1b,
    mistral-7b, qwen2.5-0.5b, qwen3-0.6b, gemma-2-2b, gemma-3-1b, olmo-2-7b, tinystories, owt) or TOML file (see
    configs/)."""
    model: Annotated[ModelConfig, arg(name="")]
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    compute_dtype: ComputeDtype = "float32"
    """Type of the activations. Weights and moments are float32, or float64 if this is float64."""
    batch_size: int = TrainConfig.batch_size
    """Sequences in a step."""
    grad_accumulation: int = TrainConfig.grad_accumulation
    """Number of micro-batches in a step."""
    steps: int = TrainConfig.steps
    """Number of optimizer steps."""
    tokens: float | None = None
    """Number of tokens to train on. If not given: that of --steps."""
    peak_flops: float | None = None
    """Peak of the device in floating-point operations a second. Needed for the days of training."""
    mfu: float = 0.5
    """Share of the peak that the model's operations reach; with --mesh, while a device waits for no other."""
    memory: str | None = None
    """Memory of the device, such as 80GB or 80GiB. Needed for the largest batch that fits."""
    mesh: tuple[str, ...] = ()
    """Meshes such as data=2,fsdp=4,tensor=8. For each with each --hardware: memory, network and time of one device."""
    hardware: tuple[str, ...] = ()
    """Devices for the times on a mesh: a100, h100, h200 or v5p."""
    bandwidth: float | None = None
    """Bytes a second that each device sends. With --peak-flops, this replaces --hardware."""
    json: bool = False
    """Print JSON, in FLOPs and bytes, not tables."""
    given: Annotated[TrainConfig | None, Suppress] = None
    """The config as it was read. It may be a pipe, which can be read only once."""

    def run(self) -> None:
        from lm.accounting.plan import plan_tables
        from lm.accounting.presets import find_config, parse_bytes
        from lm.accounting.report import account, tables
        from lm.files import json_text

        if not 0 < self.mfu <= 1:
            raise InputError(f"mfu is {self.mfu}: give a share above 0 and at most 1")
        if self.tokens is not None and not 1 <= self.tokens < 1e30:
            raise InputError(f"tokens is {self.tokens}: give 1 or more")
        settings = {name: getattr(self, name) for name in _SETTINGS}
        config = dataclasses.replace(self.given or find_config(self.config), model=self.model, **settings)
        available = None if self.memory is None else parse_bytes(self.memory)
        if self.mesh:
            facts: dict[str, Any] = {"plans": self._plans(config, available)}
            print(json_text(facts) if self.json else plan_tables(facts["plans"]) + "\n", end="")
            return
        for flag, given in (("hardware", self.hardware), ("bandwidth", self.bandwidth)):
            if given:
                raise InputError(f"--{flag} needs --mesh: give a mesh, such as --mesh data=8")
        facts = account(config, self.mfu, None if self.tokens is None else int(self.tokens), available)
        print(json_text(facts) if self.json else tables(facts) + "\n", end="")

    def _plans(self, config: TrainConfig, available: int | None) -> list[dict[str, Any]]:
        """Return a plan for each mesh with each kind of device."""
        from lm.accounting.hardware import Hardware, find_hardware
        from lm.accounting.plan import plan
        from lm.mesh import Mesh

        kinds: dict[str | None, Hardware | None] = {
            name: find_hardware(name, config.compute_dtype) for name in self.hardware
        }
        if kinds and (self.bandwidth is not None or available is not None):
            raise InputError(
                "--hardware has its own memory and bandwidth: leave out --memory and --bandwidth"
            )
        if self.bandwidth is not None:
            if config.peak_flops is None or not 0 < self.bandwidth < math.inf:
                raise InputError(
                    f"--bandwidth {self.bandwidth}: give bytes a second above 0, and --peak-flops"
                )
            peak = {config.compute_dtype: config.peak_flops}
            kinds = {None: Hardware(peak, available, 1, self.bandwidth, self.bandwidth)}
        # A plan for GPUs must not follow what XLA does only on a CPU.
        device = "cpu" if config.device == "cpu" and not kinds else "cuda"
        config = dataclasses.replace(config, device=device)
        return [
            plan(config, Mesh.parse(text), hardware, self.mfu, name)
            for text in self.mesh
            for name, hardware in (kinds or {None: None}).items()
        ]


_SETTINGS = ("compute_dtype", "batch_size", "grad_accumulation", "steps", "peak_flops", "optimizer")


def accounting_defaults(arguments: Sequence[str]) -> Any:
    """Return the defaults of `lm accounting`: the settings of the config that the command line names."""
    from lm.accounting.presets import PRESETS, find_config, names_file

    words = [word for word in arguments[1:] if word == "-" or not word.startswith("-")]
    names = [word for word in words if word in PRESETS or names_file(word)] or words
    if {"-h", "--help"} & {*arguments}:
        return MISSING_NONPROP
    if not names:
        raise InputError(
            f"no config is given: lm accounting CONFIG, one of {', '.join(PRESETS)} or a TOML file"
        )
    config = find_config(names[0])
    settings = {name: getattr(config, name) for name in _SETTINGS}
    return Accounting(names[0], leave_derived_open(config.model), **settings, given=config)
