"""Faults in lm/muon.py: the constants of Muon."""

from typing import Any

from tests.faults.fault import MUON, fault


@fault("Newton-Schulz with another coefficient", "lm.muon.COEFFICIENTS", MUON)
def _(coefficients: Any) -> Any:
    a, b, c = coefficients
    return a, b, c + 0.02


@fault("Muon scales wide matrices, not tall ones", "lm.muon.scale_factor", MUON)
def _(scale_factor: Any) -> Any:
    return lambda scale, rows, columns: scale_factor(scale, columns, rows)
