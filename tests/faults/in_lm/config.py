"""Faults in lm/config: settings that follow from others."""

from typing import Any

from tests.faults.fault import ORACLE_RUN, fault


@fault("Muon takes AdamW's learning rate", "lm.config.training.OptimizerConfig.muon_rate", ORACLE_RUN)
def _(muon_rate: Any) -> Any:
    return property(lambda self: 1.0)
