"""What a run is: frozen, checked dataclasses, read from TOML and overridden by flags.

`model` says what the model is, `training` how it is trained, `checks` which values are accepted, and `reading` reads
configs from files.
"""

from lm.config.checks import check_device, check_threads
from lm.config.model import LayerType, ModelConfig
from lm.config.reading import CONFIGS, from_dict, kind_of, load_config
from lm.config.training import (
    AdamWForm,
    ComputeDtype,
    EvalBy,
    MuonDtype,
    MuonScale,
    OptimizerConfig,
    Schedule,
    TrackerName,
    TrainConfig,
)

__all__ = [
    "CONFIGS",
    "AdamWForm",
    "ComputeDtype",
    "EvalBy",
    "LayerType",
    "ModelConfig",
    "MuonDtype",
    "MuonScale",
    "OptimizerConfig",
    "Schedule",
    "TrackerName",
    "TrainConfig",
    "check_device",
    "check_threads",
    "from_dict",
    "kind_of",
    "load_config",
]
