"""The picture of a scaling law."""

from pathlib import Path
from typing import Any

from lm.files import published

Fact = dict[str, Any]


def plot(facts: Fact, path: Path) -> None:
    """Draw the losses over tokens and sizes, and the best size and tokens over FLOPs.

    Args:
        facts: What `fit_points` returns.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8.5), dpi=110, layout="constrained")
    panels = figure.subplots(2, 2)
    for panel in panels.flat:
        panel.set_xscale("log")
        panel.grid(alpha=0.3)
    with published(path) as temporary:
        figure.savefig(temporary, format="png")
