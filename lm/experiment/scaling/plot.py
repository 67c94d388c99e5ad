"""The picture of a scaling law: losses over tokens, IsoFLOP parabolas, and the best size and tokens over FLOPs."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm.experiment.scaling.law import Law, read_law
from lm.experiment.scaling.points import Point
from lm.experiment.scaling.tables import number
from lm.files import published

Fact = dict[str, Any]

# More curves than this are not told apart.
_MOST_SIZES = 6
_SAMPLES = 100
# Up to this ratio of its ends, an axis has labels between powers of ten.
_FEW_LABELS = 200
_STYLES = {
    "law, E free": ("tab:blue", "--"),
    "law, E given": ("tab:blue", "-"),
    "parabolas, E free": ("tab:red", "-"),
    "lowest runs": ("tab:gray", ":"),
}
_LABELS = {"parabolas, E free": "parabolas"}


def plot(facts: Fact, path: Path, trained: Point | None = None) -> None:
    """Draw four panels, for a page's width.

    Args:
        facts: What `fit_points` returns.
        path: PNG file to write.
        trained: Run beyond the points, to show as a star.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8.4), dpi=120, layout="constrained")
    panels = figure.subplots(2, 2)
    _losses(panels[0, 0], facts)
    _parabolas(panels[0, 1], facts)
    _optima(panels[1, 0], facts, "N", "parameters", "parameters N")
    _optima(panels[1, 1], facts, "D", "tokens", "tokens D")
    if trained is not None:
        for panel, x, y in (
            (panels[0, 0], trained.tokens, trained.loss),
            (panels[1, 0], trained.flops, trained.parameters),
            (panels[1, 1], trained.flops, trained.tokens),
        ):
            panel.plot(x, y, "*", color="black", markersize=11, label="trained beyond the grid")
            panel.legend(fontsize=8, ncols=2 if panel is panels[0, 0] else 1)
    for panel in panels.flat:
        _logarithmic(panel, "x")
        panel.grid(alpha=0.3)
    with published(path) as temporary:
        figure.savefig(temporary, format="png")


def _best_law(facts: Fact) -> tuple[str, Law]:
    """Return the law with E given, if E is known, and its label."""
    label = f"law, E {'free' if facts['floor'] is None else 'given'}"
    return label, read_law(facts["methods"][label])


def _losses(panel: Any, facts: Fact) -> None:
    """Draw the loss of each run over its tokens, the law's curve of some sizes, and the floor."""
    points = facts["points"]
    sizes = sorted({point["parameters"] for point in points})
    colour = _colours([math.log(size) for size in sizes])
    label, law = _best_law(facts)
    tokens = [point["tokens"] for point in points]
    log_d = np.linspace(math.log(min(tokens)), math.log(max(tokens)), _SAMPLES)
    for size in _spread(sizes, _MOST_SIZES):
        losses = np.exp(law.log_loss(np.column_stack([np.full(_SAMPLES, math.log(size)), log_d])))
        panel.plot(
            np.exp(log_d), losses, color=colour(math.log(size)), linewidth=1.3, label=f"N = {number(size, 3)}"
        )
    for point in points:
        panel.plot(
            point["tokens"], point["loss"], "o", color=colour(math.log(point["parameters"])), markersize=4
        )
    floors = [("E fitted", facts["methods"]["law, E free"]["E"]["value"], "--")]
    if facts["floor"] is not None:
        floors.append(("E given", facts["floor"], "-"))
    for name, floor, line in floors:
        panel.axhline(floor, color="black", linestyle=line, linewidth=1, label=f"{name}: {floor:.3f}")
    panel.set_xlabel("training tokens D")
    panel.set_ylabel("loss, nats per token")
    panel.set_title(f"Loss over tokens, with the {label}")
    low, high = panel.get_ylim()
    panel.set_ylim(low, high + 0.25 * (high - low))  # room for the legend
    panel.legend(fontsize=8, ncols=2, loc="upper right")


def _parabolas(panel: Any, facts: Fact) -> None:
    """Draw each budget's runs, its parabola with a cross at the lowest point, and the law's curve."""
    budgets = facts["budgets"]
    colour = _colours([math.log(fact["flops"]) for fact in budgets])
    label, law = _best_law(facts)
    c, k = facts["flops"]["coefficient"], facts["flops"]["exponent"]
    for fact in budgets:
        flops, shade = fact["flops"], colour(math.log(fact["flops"]))
        runs = [point for point in facts["points"] if abs(math.log(point["flops"] / flops)) < 0.05]
        sizes = [point["parameters"] for point in runs]
        panel.plot(sizes, [point["loss"] for point in runs], "o", color=shade, markersize=4)
        n = np.geomspace(min(sizes) / 1.15, max(sizes) * 1.15, _SAMPLES)
        logs = np.column_stack([np.log(n), math.log(flops / c) - k * np.log(n)])
        panel.plot(n, np.exp(law.log_loss(logs)), ":", color=shade, linewidth=1.3)
        if (parabola := fact["parabola"]) is not None:
            away = np.log(n / parabola["parameters"])
            panel.plot(
                n,
                parabola["loss"] + parabola["curvature"] * away**2,
                color=shade,
                linewidth=1.3,
                label=f"{number(flops, 3)} FLOPs",
            )
            panel.plot(parabola["parameters"], parabola["loss"], "kx", markersize=7)
    panel.plot([], [], ":", color="black", label=label)
    panel.set_xlabel("parameters N")
    panel.set_ylabel("loss, nats per token")
    panel.set_title("IsoFLOP parabolas, lowest points crossed")
    panel.legend(fontsize=8)


def _optima(panel: Any, facts: Fact, letter: str, key: str, label: str) -> None:
    """Draw the best size or tokens over FLOPs, from the smallest budget to the largest prediction."""
    flops = [point["flops"] for point in facts["points"]]
    budgets = facts["budgets"]
    lowest = [(fact["flops"], fact["lowest"][key]) for fact in budgets]
    crossed = [(fact["flops"], fact["parabola"][key]) for fact in budgets if fact["parabola"]]
    for found, mark, name in (
        (lowest, "o", "lowest run of a budget"),
        (crossed, "x", "lowest point of a parabola"),
    ):
        if found:
            panel.plot(*zip(*found, strict=True), mark, color="black", label=name, fillstyle="none")
    # The intervals of all methods stand side by side.
    intervals: list[tuple[float, Fact, str]] = []
    for i, (method, (colour, line)) in enumerate(_STYLES.items()):
        numbers = facts["methods"].get(method)
        if numbers is None or numbers[f"{letter} exponent"]["value"] is None:
            continue
        exponent = numbers[f"{letter} exponent"]
        budget = facts["predict"][-1]
        at = numbers[f"{letter} at {budget:g}"]["value"]
        c = np.array([min(flops), max(*flops, *facts["predict"])])
        name = f"{_LABELS.get(method, method)}: C^{exponent['value']:.3f}"
        panel.plot(c, at * (c / budget) ** exponent["value"], line, color=colour, linewidth=1.5, label=name)
        intervals += [
            (budget * 1.12**i, numbers[f"{letter} at {budget:g}"], colour) for budget in facts["predict"]
        ]
    _logarithmic(panel, "y")
    # Points and lines set the axis, so that a wide interval hides nothing.
    panel.set_ylim(panel.get_ylim())
    for beside, fact, colour in intervals:
        if fact["low"] is not None:
            panel.plot([beside, beside], [fact["low"], fact["high"]], color=colour, linewidth=2.5, alpha=0.6)
    panel.set_xlabel("FLOPs C, with the 95% interval of each prediction")
    panel.set_ylabel(label)
    panel.set_title(f"The best {key} over FLOPs")
    panel.legend(fontsize=8)


def _logarithmic(panel: Any, axis: str) -> None:
    """Make an axis logarithmic, with labels that do not overlap: at 1, 2 and 5, or only at 1 over many decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panel.set(**{f"{axis}scale": "log"})
    low, high = getattr(panel, f"get_{axis}lim")()
    ticks = getattr(panel, f"{axis}axis")
    ticks.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < _FEW_LABELS else (1,)))
    ticks.set_major_formatter(FuncFormatter(lambda value, _: number(value, 3)))
    ticks.set_minor_formatter(NullFormatter())


def _spread(values: Sequence[float], most: int) -> list[float]:
    """Return at most `most` of sorted values, both ends included, at about equal ratios."""
    if len(values) <= most:
        return list(values)
    return sorted(
        {min(values, key=lambda v: abs(math.log(v / x))) for x in np.geomspace(values[0], values[-1], most)}
    )


def _colours(values: Sequence[float]) -> Callable[[float], Any]:
    """Return a function from values to colours, from dark (the least) to light (the greatest)."""
    from matplotlib import colormaps

    low, high = min(values, default=0.0), max(values, default=1.0)
    return lambda value: colormaps["viridis"](0.9 * (value - low) / ((high - low) or 1.0))
