"""The results of `bench train-step` as tables and as a chart."""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from bench.children import quartiles
from lm.files import read_object
from lm.tables import markdown_table

BASELINE = "baseline"
Target = tuple[str, str, str, str, str]  # label, measured, must, aim, verdict
PRECISION = """In bfloat16 rows our backends keep weights, moments, gradients of weights, attention scores, softmax, the
inside of norms and SiLU, and the loss in float32. The residual stream, all other matrix products and the logits are
bfloat16. The baseline runs under autocast, which also keeps the residual stream and the results of norms in float32."""


def text(result: dict[str, Any]) -> str:
    """Return all tables, in Markdown that is readable in a terminal."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "jax", "numpy"))
    lines = [
        f"{machine['processor']}, {result['threads']} threads, device {result['gpu'] or result['device']}; "
        f"Python {machine['python']}, {versions}; {result['time']}",
        f"`{result['command'].strip()}`",
        "",
        *_steps(result),
        "",
        *_parity(result),
    ]
    if any("bfloat16" in row["work"] for row in result["rows"]):
        lines += ["", PRECISION]
    targets = list(_targets(result))
    if targets:
        lines += ["", markdown_table(("", "measured", "must", "aim", ""), targets)]
    return "\n".join(lines)


def seconds(contender: dict[str, Any]) -> list[float]:
    """Return the seconds of a step in each round: the median of the round's samples."""
    return [median(sample["seconds"]) for sample in contender["rounds"]]


def ratios(contender: dict[str, Any], baseline: dict[str, Any]) -> tuple[float, float, float]:
    """Return the quartiles of the contender's time divided by the baseline's, taken within each round."""
    pairs = zip(seconds(contender), seconds(baseline), strict=True)
    return quartiles([ours / theirs for ours, theirs in pairs])


def shares(row: dict[str, Any], contender: dict[str, Any]) -> tuple[float, float, float]:
    """Return the quartiles of the step's operations per second as a share of a matrix product's, within each round."""
    pairs = zip(seconds(contender), row["peak_flops"], strict=True)
    return quartiles([row["flops"] / s / peak for s, peak in pairs])


def _measured(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: c for name, c in row["contenders"].items() if "rounds" in c}


def _steps(result: dict[str, Any]) -> Iterator[str]:
    lines = []
    for row in result["rows"]:
        measured = _measured(row)
        for name, c in row["contenders"].items():
            label = f"{row['work']} {name}"
            if name not in measured:
                lines.append((label, *[""] * 7, c.get("unavailable", "no parity")))
                continue
            low, middle, high = quartiles(seconds(c))
            ratio = " "
            if BASELINE in measured:
                ratio = "{1:.2f} ({0:.2f}-{2:.2f})".format(*ratios(c, measured[BASELINE]))
            flops = row["flops"] / middle
            chip = result["peak_flops"]
            share = f"{flops / chip:.0%} MFU" if chip else f"{shares(row, c)[1]:.0%}"
            lines.append(
                (
                    label,
                    f"{1e3 * middle:.4g} ({1e3 * low:.4g}-{1e3 * high:.4g})",
                    ratio,
                    f"{median(median(s['cpu_seconds']) for s in c['rounds']):.3g}",
                    f"{flops / 1e9:.3g}",
                    share,
                    f"{c['first_seconds']:.2f}",
                    f"{memory(c) / 2**20:,.0f}",
                    "",
                )
            )
    head = (
        "step",
        "ms (quartiles)",
        f"/ {BASELINE} (quartiles)",
        "CPU s",
        "GFLOP/s",
        "of peak",
        "first s",
        "MiB",
        "",
    )
    yield markdown_table(head, lines)


def memory(contender: dict[str, Any]) -> int:
    """Return the peak in bytes: of the GPU's memory if the contender has one, otherwise of the process."""
    return int(contender["device_memory"] or contender["peak_memory"])


def _parity(result: dict[str, Any]) -> Iterator[str]:
    for row in result["rows"]:
        parity = row["parity"]
        if not parity:
            continue
        worst = {what: max(e[what] for e in parity["errors"].values()) for what in parity["budgets"]}
        verdict = "parity" if not row["failures"] else "NO PARITY"
        yield (
            f"{row['work']}: {verdict} after one step, worst of {len(parity['errors'])} against {parity['reference']}: "
            + (
                ", ".join(
                    f"{what} {error:.0e} (<= {parity['budgets'][what]:.0e})" for what, error in worst.items()
                )
            )
        )


def _targets(result: dict[str, Any]) -> Iterator[Target]:
    """Yield the project's targets beside what this run measured."""
    if result["device"] != "cpu":
        return
    rows = {row["work"]: (row, _measured(row)) for row in result["rows"]}

    def line(
        label: str,
        value: float,
        must: float,
        aim: float,
        form: str = "{:.2f}",
        smaller_is_better: bool = True,
    ) -> Target:
        reached = (value <= must, value <= aim) if smaller_is_better else (value >= must, value >= aim)
        verdict = "aim" if reached[1] else "must" if reached[0] else "short"
        sign = "<=" if smaller_is_better else ">="
        return label, form.format(value), f"{sign} {form.format(must)}", f"{sign} {form.format(aim)}", verdict

    def ratio(label: str, work: str, ours: str, theirs: str, must: float, aim: float) -> Iterator[Target]:
        found = rows.get(work, ({}, {}))[1]
        if ours in found and theirs in found:
            yield line(f"{label}: {work}", ratios(found[ours], found[theirs])[1], must, aim)

    def peak(name: str, work: str, must: float, aim: float) -> Iterator[Target]:
        found = rows.get(work, ({}, {}))[1]
        if name in found and BASELINE in found:
            share = memory(found[name]) / memory(found[BASELINE])
            yield line(f"{name}, peak memory / baseline: {work}", share, must, aim)

    yield from ratio("JAX / baseline", "tinystories/8/float32", "jax", BASELINE, 1.0, 0.9)
    yield from ratio("torch / baseline", "tinystories/8/float32", "torch", BASELINE, 1.05, 0.95)
    yield from ratio("torch / baseline", "tinystories/32/float32", "torch", BASELINE, 1.15, 1.0)
    yield from ratio(
        "torch / baseline under autocast", "tinystories/8/bfloat16", "torch", BASELINE, 0.95, 0.8
    )
    row, found = rows.get("tinystories/8/float32", ({}, {}))
    for name in ("jax", "torch"):
        if name in found:
            share = shares(row, found[name])[1]
            yield line(f"{name}, of the matrix product's peak", share, 0.7, 0.85, "{:.0%}", False)
    if "jax" in found:
        yield line("JAX, seconds to compile and take a step", found["jax"]["first_seconds"], 5, 3, "{:.1f}")
    for name in ("jax", "torch"):
        yield from peak(name, "tinystories/8/float32", 1.0, 0.8)
    for work, jax, torch in (
        ("tinystories@1024/2/float32", 1.1, 1.05),
        ("tinystories@4096/1/float32", 1.2, 1.25),
    ):
        yield from ratio("JAX / baseline", work, "jax", BASELINE, jax, 1.0)
        yield from ratio("torch / baseline", work, "torch", BASELINE, torch, 1.0)
    yield from peak("jax", "tinystories@4096/1/float32", 1.2, 1.0)
    yield from peak("torch", "tinystories@4096/1/float32", 1.0, 1.0)
    yield from ratio("torch / baseline", "micro/8/float32", "torch", BASELINE, 1.1, 1.0)
    yield from ratio("JAX / torch", "micro/8/float32", "jax", "torch", 0.5, 0.3)


def publish(
    given: argparse.Namespace,
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    to_text: Callable[[dict[str, Any]], str],
) -> dict[str, Any]:
    """Measure, or read the results of --read. Print the tables, write --json and --markdown, and return the result."""
    result = read_object(given.read, "measure again") if given.read else measure(given)
    if given.json:
        save(result, given.json)
    tables = to_text(result)
    print(tables)
    if given.markdown:
        given.markdown.write_text(tables + "\n", encoding="utf-8", newline="")
    return result


def save(result: dict[str, Any], file: Path) -> None:
    """Write the results of a benchmark as JSON, with every sample."""
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8", newline="")


def plot(result: dict[str, Any], file: Path) -> None:
    """Draw the milliseconds of a step as bars with quartiles, one panel for each work."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = [row for row in result["rows"] if _measured(row)]
    names = list(dict.fromkeys(name for row in rows for name in _measured(row)))
    colours = {name: f"C{i}" for i, name in enumerate(names)}
    height = sum(0.5 + 0.32 * len(_measured(row)) for row in rows)
    figure, axes = pyplot.subplots(
        len(rows),
        figsize=(8, 0.9 + height),
        layout="constrained",
        squeeze=False,
        height_ratios=[1.5 + len(_measured(row)) for row in rows],
    )
    for row, axis in zip(rows, axes[:, 0], strict=True):
        measured = _measured(row)
        for i, (name, c) in enumerate(measured.items()):
            low, middle, high = (1e3 * s for s in quartiles(seconds(c)))
            axis.barh(i, middle, xerr=[[middle - low], [high - middle]], color=colours[name], ecolor="0.3")
            axis.text(high, i, f"  {middle:.4g} ms", va="center", fontsize=9)
        axis.set_yticks(range(len(measured)), measured, fontsize=9)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.15 * max(1e3 * quartiles(seconds(c))[2] for c in measured.values()))
        axis.set_title(row["work"], fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("milliseconds a step, with quartiles; shorter is faster")
    machine = result["gpu"] or f"{result['machine']['processor']}, {result['threads']} threads"
    figure.suptitle(f"A training step on {machine}", fontsize=11)
    figure.savefig(file, dpi=150, format="png")
    pyplot.close(figure)
