"""Constants of Muon (Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural networks")."""

from lm.config import MuonScale

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the polynomial a s + b s^3 + c s^5 of a Newton-Schulz step."""
EPS = 1e-7
"""Least norm that a matrix is divided by."""


def scale_factor(scale: MuonScale, rows: int, columns: int) -> float:
    """Return the factor of the orthogonal update of a (rows, columns) matrix.

    original: a tall matrix takes a larger step (Jordan et al., 2024). match_rms_adamw: the root mean square of the
    elements is 0.2, as is usual for AdamW (Liu et al., 2025, "Muon is scalable for LLM training", eq. 4).

    >>> scale_factor("original", 8, 2), scale_factor("original", 2, 8)
    (2.0, 1.0)
    """
    return max(1.0, rows / columns) ** 0.5 if scale == "original" else 0.2 * max(rows, columns) ** 0.5
